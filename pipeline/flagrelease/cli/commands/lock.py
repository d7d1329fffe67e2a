"""`flagrelease lock`: pin everything that can change upstream, and show the difference."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

from flagrelease.cli.display import PlainBoard
from flagrelease.cli.shared import options
from flagrelease.config import lockfile as locks
from flagrelease.config.cell import select
from flagrelease.run import relock
from flagrelease.run.project import impatient_registry, open_project, real_ports


def main(arguments: argparse.Namespace) -> int:
    project = open_project(options(arguments))
    cells = [
        cell for cell in select(project.cells, arguments.cells, arguments.chip, arguments.model) if not cell.excluded
    ]
    ports = replace(real_ports(project.workspace), registry=impatient_registry())
    progress = PlainBoard().progress("lock", "")
    new = relock.relock(project.matrix, project.lock, ports, cells, progress)
    changed = locks.changes(project.lock, new)
    if changed:
        locks.save(project.lock_path, new)
    if arguments.json:
        print(json.dumps({"changes": list(changed), "unresolved": dict(new.unresolved)}, indent=2, ensure_ascii=False))
        return 0
    print("\n".join(changed) if changed else f"{project.lock_path.name} is up to date")
    for name, why in new.unresolved.items():
        print(f"! {name} could not be pinned: {why}")
    return 0
