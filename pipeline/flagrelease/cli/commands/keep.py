"""`flagrelease keep`: declare that changed code cannot change a stage's result, so that the stage is not run again."""

from __future__ import annotations

import argparse
import json

import msgspec

from flagrelease.cli.shared import options, user
from flagrelease.config.cell import select_one
from flagrelease.ports.clock import SystemClock
from flagrelease.run import keep
from flagrelease.run.cell_run import new_run_id
from flagrelease.run.plan import Choice, choice
from flagrelease.run.project import open_project
from flagrelease.stages import STAGES
from flagrelease.store.ledger import KEEP, Entry, process_id


def main(arguments: argparse.Namespace) -> int:
    project = open_project(options(arguments))
    cell = select_one(project.cells, arguments.cell)
    choice(STAGES, [arguments.stage], [])
    stage = next(known for known in STAGES if known.name == arguments.stage)
    plan = project.plan([cell], STAGES, Choice())[0]
    entries = project.ledger.entries()
    earlier = [e for e in reversed(entries) if (e.cell, e.stage, e.state) == (cell.id, stage.name, "done")]
    at = SystemClock().now().isoformat(timespec="seconds")
    decision, changed = keep.keep(plan, stage, earlier, project.past(), reason=arguments.reason, by=user(), at=at)
    entry = Entry(
        at=at,
        run=new_run_id(),
        cell=cell.id,
        stage=KEEP,
        state="done",
        key=decision.to_key,
        process=process_id(),
        result=msgspec.to_builtins(decision),
    )
    project.ledger.append(entry)
    if arguments.json:
        output = {
            "cell": cell.id,
            "kept": msgspec.to_builtins(decision),
            "changed": [str(change) for change in changed],
        }
        print(json.dumps(output, indent=2, ensure_ascii=False))
    else:
        print(f"{cell.id} {stage.name} is kept although its code has changed:")
        print("\n".join(f"  {change}" for change in changed))
    return 0
