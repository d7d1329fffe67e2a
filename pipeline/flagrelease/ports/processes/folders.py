"""Find and end the processes of any run, by the folders that replace their containers."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from flagrelease.ports.processes import supervisor

RUN = "run.json"
"""What was started, in the process's folder."""

MARK = "FLAGRELEASE_PROCESS"
"""Environment variable of a process and all its descendants, to find those that left the process tree."""

DEAD_SECONDS = 15.0
"""Beyond its own grace, for a process to end."""

_POLL = 0.05


def started(processes: Path) -> list[tuple[Path, Mapping[str, Any]]]:
    """Folder and description of all processes that were started and not removed, by any run."""
    runs = []
    for path in processes.glob(f"*/{RUN}"):
        with suppress(OSError, ValueError):
            runs.append((path.parent, json.loads(path.read_text())))
    return runs


def end(folder: Path) -> None:
    """Terminate the processes recorded in `folder`, of any run, and remove it. Does nothing if both are gone."""
    tree = _tree(folder)
    if tree:
        _wait_for([tree[0]], signal.SIGTERM, supervisor.GRACE + DEAD_SECONDS)
    # The supervisor leaves no process behind unless it was killed itself.
    _wait_for([*_tree(folder), *_marked(folder.name)], signal.SIGKILL, DEAD_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


def _wait_for(processes: Sequence[tuple[int, str]], signum: signal.Signals, seconds: float) -> None:
    """Signal these processes and wait until they end, at most `seconds`."""
    deadline = time.monotonic() + seconds
    for pid, start in processes:
        supervisor.kill(pid, start, signum)
    while time.monotonic() < deadline:
        if not any(supervisor.alive(pid) and supervisor.started(pid) == start for pid, start in processes):
            return
        time.sleep(_POLL)


def _tree(folder: Path) -> list[tuple[int, str]]:
    """Process ids with start times, the supervisor's first; empty if they are of another boot or namespace."""
    try:
        tree = json.loads((folder / supervisor.TREE).read_text())
    except (OSError, ValueError):
        return []
    return [(int(pid), str(start)) for pid, start in tree["processes"]] if tree["where"] == supervisor.where() else []


def _marked(identity: str) -> list[tuple[int, str]]:
    mark = f"{MARK}={identity}".encode()
    marked = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        pid = int(path.parent.name)
        start = supervisor.started(pid)
        with suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                marked.append((pid, start))
    return marked
