"""supervisor.py FOLDER PARENT PROGRAM…: run a program and end all its descendants with it, as a container would.

Run as a script, by path. It adopts all orphaned descendants, so that none escapes. It terminates the program on SIGTERM
and when process PARENT is gone, and exits with the program's code. It records the live processes in FOLDER/tree.json,
in case it is killed itself.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

TREE = "tree.json"
GRACE = 10.0
_POLL = 0.05
_RECORD_SECONDS = 2.0
_KILL_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)


class Supervisor:
    def __init__(self, folder: Path, parent: int) -> None:
        self._folder = folder
        self._parent = parent
        self._stopping = False
        self._recorded: dict[int, str] = {}

    def run(self, program: list[str]) -> int:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, self._stop)
        self._record()
        child = subprocess.Popen(program, stdin=subprocess.DEVNULL, preexec_fn=_follow)
        self._record()
        code = self._watch(child.pid)
        self._kill_rest()
        return code

    def _watch(self, child: int) -> int:
        """The program's exit code; 128 + N if signal N ended it."""
        deadline = 0.0
        record_at = time.monotonic() + _POLL
        while True:
            ended = _reap()
            if child in ended:
                code = os.waitstatus_to_exitcode(ended[child])
                return code if code >= 0 else 128 - code
            now = time.monotonic()
            # Linux sends the parent-death signal when the starting thread ends, so compare the parent instead.
            if not deadline and (self._stopping or os.getppid() != self._parent):
                os.kill(child, signal.SIGTERM)
                deadline = now + GRACE
            if deadline and now > deadline:
                return 128 + signal.SIGKILL
            if now > record_at:
                self._record()
                record_at = now + _RECORD_SECONDS
            time.sleep(_POLL)

    def _kill_rest(self) -> None:
        deadline = time.monotonic() + _KILL_SECONDS
        while (remaining := descendants(os.getpid())) and time.monotonic() < deadline:
            for pid in remaining:
                kill(pid, started(pid))
            _reap()
            time.sleep(_POLL / 5)

    def _record(self) -> None:
        tree = {pid: started(pid) for pid in (os.getpid(), *descendants(os.getpid()))}
        if tree != self._recorded:
            self._recorded = tree
            fresh = self._folder / f".{TREE}"
            with suppress(OSError):  # a full disk must not end the program
                fresh.write_text(json.dumps({"where": where(), "processes": list(tree.items())}))
                fresh.replace(self._folder / TREE)

    def _stop(self, _signum: int, _frame: FrameType | None) -> None:
        self._stopping = True


def where() -> str:
    """The boot and the namespace in which process ids are valid."""
    parts = []
    with suppress(OSError):  # not every sandbox shows them
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def started(pid: int) -> str:
    """When `pid` started, in ticks since boot; empty if there is no such process. It makes a pid unique."""
    fields = _stat(pid)
    return fields[19] if fields else ""


def alive(pid: int) -> bool:
    fields = _stat(pid)
    return bool(fields) and fields[0] not in "ZX"


def descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        if fields := _stat(int(path.name)):
            children.setdefault(int(fields[1]), []).append(int(path.name))
    below: list[int] = []
    todo = [root]
    while todo:
        direct = children.get(todo.pop(), [])
        below += direct
        todo += direct
    return below


def kill(pid: int, start: str, signum: int = signal.SIGKILL) -> None:
    """Signal the process `pid` that started at `start`, never another process that has reused its number."""
    with suppress(ProcessLookupError, PermissionError):
        try:
            handle = os.pidfd_open(pid)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            if start and started(pid) == start:
                os.kill(pid, signum)
            return
        try:
            if start and started(pid) == start:
                signal.pidfd_send_signal(handle, signum)
        finally:
            os.close(handle)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; the second is the name and may contain any characters."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (OSError, ValueError):
        return []


def _reap() -> dict[int, int]:
    """The children that ended, adopted orphans included, with their wait status."""
    ended: dict[int, int] = {}
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            ended[pid] = status
    return ended


def _follow() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    os._exit(Supervisor(Path(sys.argv[1]), int(sys.argv[2])).run(sys.argv[3:]))
