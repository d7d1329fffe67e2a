"""`flagrelease keep`: say that changed code cannot change a stage's result, so that it is not run again."""

from __future__ import annotations

import argparse
import getpass
import json

import msgspec

from flagrelease.cli.shared import options
from flagrelease.config.cell import select
from flagrelease.ports.clock import SystemClock
from flagrelease.run import keep
from flagrelease.run.cell_run import new_run_id
from flagrelease.run.plan import Choice, choice
from flagrelease.run.project import open_project
from flagrelease.stages import STAGES
from flagrelease.store.ledger import KEEP, Entry, process_id


def main(arguments: argparse.Namespace) -> int:
    project = open_project(options(arguments))
    cell = select(project.cells, [arguments.cell], [], [])[0]
    choice(STAGES, [arguments.stage], [])
    stage = next(one for one in STAGES if one.name == arguments.stage)
    plan = project.plan([cell], STAGES, Choice())[0]
    entries = project.ledger.entries()
    earlier = [one for one in reversed(entries) if (one.cell, one.stage, one.state) == (cell.id, stage.name, "done")]
    at = SystemClock().now().isoformat(timespec="seconds")
    word, changed = keep.keep(plan, stage, earlier, project.past(), reason=arguments.reason, by=_user(), at=at)
    entry = Entry(
        at=at,
        run=new_run_id(),
        cell=cell.id,
        stage=KEEP,
        state="done",
        key=word.to_key,
        process=process_id(),
        result=msgspec.to_builtins(word),
    )
    project.ledger.append(entry)
    if arguments.json:
        told = {"cell": cell.id, "kept": msgspec.to_builtins(word), "changed": [str(one) for one in changed]}
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        print(f"{cell.id} {stage.name} is kept although this has changed:")
        print("\n".join(f"  {one}" for one in changed))
    return 0


def _user() -> str:
    """The name of who says it. A user without one is known by number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        import os

        return f"user {os.getuid()}"
