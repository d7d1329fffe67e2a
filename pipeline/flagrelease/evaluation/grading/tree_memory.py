"""Bound the memory of a program with all its descendants: limits of processes count each of them alone.

A control group would do so in the kernel, but making one takes rights that a container rarely has. Between two looks a
tree can take what the machine writes in that time, some hundred megabytes.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOOK_SECONDS = 0.05
_PAGE = os.sysconf("SC_PAGE_SIZE")


@contextmanager
def bounded(pid: int, most_bytes: int) -> Iterator[None]:
    """Kill `pid` and its descendants as soon as they have more than `most_bytes` of memory together."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_SECONDS):
            tree = processes(pid)
            # Resident pages that are shared, as after a fork, count for each process: only then look closer.
            if sum(map(_resident, tree)) > most_bytes and sum(map(_share, tree)) > most_bytes:
                _kill(pid)

    watcher = threading.Thread(target=watch, name="memory", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def processes(root: int) -> list[int]:
    """The process and its descendants."""
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        with suppress(OSError):  # it may end at any time, and a thread of it as well
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with suppress(OSError):
                    todo += map(int, (thread / "children").read_text().split())
    return found


def _resident(pid: int) -> int:
    with suppress(OSError, ValueError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return 0


def _share(pid: int) -> int:
    """Its memory, with its share of what it has in common with others."""
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return _resident(pid)


def _kill(root: int) -> None:
    """Several times, as the tree may be growing."""
    for _ in range(3):
        for pid in processes(root):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
