"""Remove containers, processes and partial files left by killed runs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flagrelease.config.cell import Cell
from flagrelease.contract.context import Ports
from flagrelease.stages.image import process_root
from flagrelease.store.files import TEMPORARY, abandoned, unfinished
from flagrelease.store.machine import DeadRun, SharedMachine
from flagrelease.store.workspace import Workspace

if TYPE_CHECKING:
    from flagrelease.ports.container_runner import Runner

_REMOVE_SECONDS = 2.0
_POLL_SECONDS = 0.1


def leftovers(cells: Sequence[Cell], workspace: Workspace, ports: Ports, *, own: bool = False) -> None:
    """Remove containers of these cells, whose locks the caller holds, and temporary files of dead processes.

    With `own`, also those of this process: it was interrupted and no longer writes any.
    """
    process_root.sweep(workspace.images)
    for path in [*workspace.root.glob(f"{TEMPORARY}*"), *workspace.root.glob(f"*/**/{TEMPORARY}*")]:
        if abandoned(path) or (own and path.name.startswith(unfinished())):
            _remove(path)
    for cell in cells:
        ports.runner.reap(cell.id, workspace.root)


def dead_runs(machine: SharedMachine, runner: Runner, say: Callable[[str], None]) -> None:
    """Remove what dead runs of any cell, workspace and user left on this machine; `say` gets a line for each.

    Never anything of a run that is alive, and nothing of one that this machine cannot judge.
    """

    def take_away(run: DeadRun) -> bool:
        if not run.here or run.executor != runner.address:
            return False
        if count := runner.reap_run(run):
            say(f"removed {count} of the servers that the dead run {run.id} of {', '.join(run.cells)} left")
        return True

    machine.bury(take_away)


def earlier_boots(runner: Runner, say: Callable[[str], None]) -> None:
    """Remove what runs left when this machine was switched off."""
    if count := runner.reap_boots():
        say(f"removed {count} of the servers that runs before the last boot left")


def _remove(path: Path) -> None:
    """Remove a file or folder; try again for a while, since a program of the dead run may still be writing to it."""
    deadline = time.monotonic() + _REMOVE_SECONDS
    while True:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        if not path.exists() or time.monotonic() >= deadline:
            return
        time.sleep(_POLL_SECONDS)
