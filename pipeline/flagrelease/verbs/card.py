"""`flagrelease card CELL`: the card that the cell's last finished card stage made."""

from __future__ import annotations

import argparse
import json
import sys

import msgspec

from flagrelease import cli, results
from flagrelease.assemble import project
from flagrelease.cell import select
from flagrelease.errors import ConfigError
from flagrelease.stages import card as stage
from flagrelease.workspace import write_atomic


def main(arguments: argparse.Namespace) -> int:
    everything = project(cli.options(arguments))
    cell = select(everything.cells, [arguments.cell], [], [])[0]
    entry = everything.ledger.last_done(cell.id, stage.STAGE.name)
    if entry is None:
        raise ConfigError(f"{cell.id} has no card yet", hint=f"run `flagrelease run {cell.id}`")
    files = stage.files(msgspec.convert(entry.result, results.Card))
    data = {name: everything.evidence.read(one) for name, one in files.items()}
    if arguments.output is not None:
        for name, content in data.items():
            write_atomic(arguments.output / name, content)
    text = data[stage.README].decode()
    if arguments.json:
        shown = {"cell": cell.id, "card": text, "files": {name: f"sha256:{one.sha256}" for name, one in files.items()}}
        print(json.dumps(shown, indent=2, ensure_ascii=False))
    elif arguments.output is not None:
        print(f"{', '.join(sorted(data))} in {arguments.output}")
    else:
        sys.stdout.write(text)
    return 0
