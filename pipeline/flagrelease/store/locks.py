"""flock-based locks, released by the kernel when the holder dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from flagrelease.errors import Busy
from flagrelease.store.files import translate_disk_errors

Opened = Callable[[Path], AbstractContextManager[int]]
"""Opens a lock file, which is made if it does not exist, and closes it."""

_READ_BYTES = 4096
_SHOWN_LETTERS = 200
POLL_SECONDS = 0.5


@contextmanager
def hold(path: Path, what: str, run_id: str) -> Iterator[None]:
    """Hold the lock `path` for the block. Raises Busy, naming the holder, if another process holds it."""
    with _opened(path) as handle:
        if not locked(handle, path):
            raise Busy(f"{what} is busy", why=holder(path), hint="wait for that run, or stop it")
        _sign(handle, run_id, {})
        yield


@contextmanager
def wait_for(
    path: Path,
    run_id: str,
    waiting: Callable[[str], None],
    sleep: Callable[[float], None],
    *,
    names: Mapping[str, str] | None = None,
    opened: Opened | None = None,
    shared: bool = False,
) -> Iterator[None]:
    """Hold the lock `path` for the block, waiting without a limit; `waiting` is called with the holder, whose `names`
    (such as its cell) others see. Those that hold it `shared` do not sign it."""
    while True:
        with (opened or _opened)(path) as handle:
            if locked(handle, path, shared=shared):
                if not current(handle, path):  # somebody tidied up in between
                    continue
                if not shared:
                    _sign(handle, run_id, names or {})
                yield
                return
        waiting(holder(path))
        sleep(POLL_SECONDS)


@contextmanager
def taken(path: Path, run_id: str, names: Mapping[str, str], opened: Opened) -> Iterator[bool]:
    """Hold the lock `path` for the block if it is free; yields whether it is."""
    while True:
        with opened(path) as handle:
            free = locked(handle, path)
            if free and not current(handle, path):
                continue
            if free:
                _sign(handle, run_id, names)
            yield free
            return


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    with translate_disk_errors(f"opening the lock {path.name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield handle
    finally:
        os.close(handle)


def locked(handle: int, path: Path, *, shared: bool = False) -> bool:
    """Lock the file, unless another process has locked it; those that lock it `shared` hold it together."""
    with translate_disk_errors(f"locking {path}"):
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def current(handle: int, path: Path) -> bool:
    """Whether the opened file still is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def signature(run_id: str, names: Mapping[str, str]) -> bytes:
    """What a lock file says about its holder."""
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "run": run_id, "since": datetime.now(UTC).isoformat()}
    return json.dumps({**holder, **names}).encode()


def _sign(handle: int, run_id: str, names: Mapping[str, str]) -> None:
    with suppress(OSError):  # the file of another user, or a full disk: it is locked all the same
        os.ftruncate(handle, 0)
        os.pwrite(handle, signature(run_id, names), 0)


def holder(path: Path) -> str:
    """The holder by its own words, which on a shared folder any user may have written."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            said = json.loads(os.read(handle, _READ_BYTES))
        finally:
            os.close(handle)
        by = {name: _shown(text) for name, text in said.items()}
        place = f" ({by['cell']} in {by['workspace']})" if {"cell", "workspace"} <= by.keys() else ""
        since = by["since"][:19].replace("T", " ")
        return f"held by run {by['run']}{place}, pid {by['pid']} on {by['host']}, since {since} UTC"
    except (OSError, ValueError, KeyError, AttributeError, RecursionError):
        return "held by another run that has just started"


def _shown(text: object) -> str:
    letters = str(text)[:_SHOWN_LETTERS]
    return letters if letters.isprintable() else ascii(letters)
