"""Write files atomically, and say in words why a disk refused."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flagrelease.errors import EnvironmentFault, NoSpace

TEMPORARY = ".unfinished."
"""How the name of a file or folder begins that is not yet whole; the writer's PID follows."""


def unfinished() -> str:
    """The beginning of a temporary name of this process."""
    return f"{TEMPORARY}{os.getpid()}."


def abandoned(path: Path) -> bool:
    """Whether `path` is a temporary whose writer is dead."""
    pid = path.name.removeprefix(TEMPORARY).split(".")[0]
    return path.name.startswith(TEMPORARY) and pid.isdigit() and not Path(f"/proc/{pid}").exists()


@contextmanager
def translate_disk_errors(doing: str) -> Iterator[None]:
    """Raises NoSpace or EnvironmentFault, saying what was being written, in place of an OSError that means it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"no space left while {doing}",
                why=str(error.filename or error.strerror),
                hint="free some space and run again: what was finished is kept",
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS):
            raise EnvironmentFault(
                f"cannot write while {doing}", why=f"{error.strerror}: {error.filename}", hint="choose --workspace DIR"
            ) from error
        raise


def free_bytes(folder: Path) -> int:
    """What is free on the disk of `folder`, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data`: a reader sees the old file or the new one. Raises NoSpace."""
    with translate_disk_errors(f"writing {path.name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=unfinished())
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(mode)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make a rename in `path` survive a power loss."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
