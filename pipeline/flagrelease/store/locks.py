"""flock-based locks on cells and hosts, released by the kernel when the holder dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from flagrelease.errors import Busy
from flagrelease.store.files import translate_disk_errors


@contextmanager
def hold(path: Path, what: str, run_id: str) -> Iterator[None]:
    """Hold the lock `path` for the block. Raises Busy, naming the holder, if another process holds it."""
    with _opened(path) as handle:
        if not _locked(handle, path):
            raise Busy(f"{what} is busy", why=_holder(path), hint="wait for that run, or stop it")
        _sign(handle, run_id)
        yield


@contextmanager
def wait_for(path: Path, run_id: str, waiting: Callable[[str], None], sleep: Callable[[float], None]) -> Iterator[None]:
    """Hold the lock `path` for the block, waiting without a limit; `waiting` is called with the holder."""
    with _opened(path) as handle:
        while not _locked(handle, path):
            waiting(_holder(path))
            sleep(0.5)
        _sign(handle, run_id)
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    with translate_disk_errors(f"opening the lock {path.name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield handle
    finally:
        os.close(handle)


def _locked(handle: int, path: Path) -> bool:
    """Lock the file, unless another process has locked it."""
    with translate_disk_errors(f"locking {path.name}"):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _sign(handle: int, run_id: str) -> None:
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "run": run_id, "since": datetime.now(UTC).isoformat()}
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(holder).encode(), 0)


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"held by run {holder['run']}, pid {holder['pid']} on {holder['host']}, since {holder['since'][:19]}Z"
    except (OSError, ValueError, KeyError):
        return "held by another run that has just started"
