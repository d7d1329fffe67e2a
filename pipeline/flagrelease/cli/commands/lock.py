"""`flagrelease lock`: pin everything that can change upstream, and show the difference."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from flagrelease.cli.display import PlainBoard
from flagrelease.cli.shared import options
from flagrelease.config import lockfile as locks
from flagrelease.config.cell import Cell, select
from flagrelease.config.chip import UNKNOWN
from flagrelease.config.lockfile import Lock
from flagrelease.errors import ConfigError, worst
from flagrelease.packaging.base_image import not_here, registry_name
from flagrelease.run import relock
from flagrelease.run.project import Project, impatient_registry, open_project, real_ports


def main(arguments: argparse.Namespace) -> int:
    damaged: list[ConfigError] = []
    project = open_project(options(arguments), partial(_read_lock, damaged))
    for error in damaged:
        print(f"{error.line()}; starting from an empty lock, for the selected cells only", file=sys.stderr)
    cells = [
        cell for cell in select(project.cells, arguments.cells, arguments.chip, arguments.model) if not cell.excluded
    ]
    ports = replace(real_ports(project.workspace, project.registry), registry=impatient_registry(project.registry))
    progress = PlainBoard().progress("lock", "")
    relocked = relock.relock(project.matrix, project.lock, ports, cells, progress)
    new, failed = relocked.lock, relocked.failed
    changed = locks.changes(project.lock, new)
    if damaged:
        aside = project.lock_path.with_name(f"{project.lock_path.name}.damaged")
        project.lock_path.replace(aside)
        print(f"the damaged file is {aside} now", file=sys.stderr)
    if changed or damaged:
        locks.save(project.lock_path, new)
    absent = {f"chips.{cell.chip_name}": not_here(cell.chip.base) for cell in cells if _is_absent(cell, project)}
    code = worst(error.exit_code for error in (*failed.values(), *absent.values()))
    if arguments.json:
        output = {"changes": list(changed), "unresolved": dict(new.unresolved), "failed": [*failed, *absent]}
        print(json.dumps(output, indent=2, ensure_ascii=False))
        return code
    repeated = tuple(f"{sign} unresolved.{name} " for sign in "+~" for name in failed)  # with the sign `!` below
    told = [line for line in changed if not line.startswith(repeated)]
    for line in told if changed else [f"{project.lock_path.name} is up to date"]:
        print(line)
    for name in failed:
        print(f"! {name} could not be pinned: {new.unresolved[name]}")
    for name, fault in absent.items():
        print(f"! {name} is not pinned: {fault.line()}\n  → {fault.hint}")
    if others := [name for name in new.unresolved if name not in failed]:
        print(f"still not pinned, and not selected: {', '.join(others)}")
    return code


def _is_absent(cell: Cell, project: Project) -> bool:
    """Whether the cell's base image has no registry, and this machine's Docker Engine says that it does not have it."""
    base = cell.chip.base
    return base != UNKNOWN and registry_name(base) is None and project.images.has(base) is False


def _read_lock(damaged: list[ConfigError], path: Path) -> Lock:
    """Read the lock. A damaged one is added to `damaged` and replaced by an empty one."""
    try:
        return locks.load(path)
    except locks.DamagedLock as error:
        damaged.append(error)
        return Lock()
