"""`flagrelease bundle CELL`: a published release in one folder, for a machine without network."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from flagrelease.cli.shared import options
from flagrelease.config.cell import select_one
from flagrelease.contract import results
from flagrelease.errors import ConfigError
from flagrelease.ports.clock import SystemClock
from flagrelease.run.project import open_project
from flagrelease.verification.bundles.write import write
from flagrelease.verification.release import open_release


def main(arguments: argparse.Namespace) -> int:
    project = open_project(options(arguments))
    cell = select_one(project.cells, arguments.cell)
    made = results.PUBLISH.of(project.ledger.last_done(cell.id, results.PUBLISH.stage))
    if made is None or made.withheld:
        raise ConfigError(
            f"{cell.id} has no published release",
            why=made.withheld if made is not None else "",
            hint=f"run `flagrelease run {cell.id}`",
        )
    release = open_release(project.workspace.root / made.folder)
    record = release.record
    folder = arguments.output or Path(f"{cell.chip_name}-{cell.model_name}-{release.tag}.bundle")
    weights = project.workspace.weights / record.weights.folder if arguments.weights else None
    from flagrelease.ports.credentials import Logins
    from flagrelease.ports.registry import OciRegistry

    registry = OciRegistry(known=Logins(own=project.registry.partition("/")[0]))
    write(release, registry, folder, SystemClock(), weights)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if arguments.json:
        print(json.dumps({"cell": cell.id, "tag": release.tag, "folder": str(folder), "bytes": size}, indent=2))
    else:
        print(f"{cell.id} {release.tag}: {size / 1e6:.1f} MB in {folder}; to check it: `flagrelease verify {folder}`")
    return 0
