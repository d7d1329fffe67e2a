"""Atomic file writes and readable disk errors."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flagrelease.errors import EnvironmentFault, FlagreleaseError, NoSpace

_UNWRITABLE = frozenset(
    {errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOLCK}
    | {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}
)

_OF_THE_MACHINE = _UNWRITABLE | {
    errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO,  # a device or a mount that is gone
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN,  # a limit on files, memory or processes
}  # fmt: skip

TEMPORARY = ".unfinished."
"""Name prefix of an incomplete file or folder; the writer's PID follows."""


def unfinished() -> str:
    """The name prefix of this process's temporary files."""
    return f"{TEMPORARY}{os.getpid()}."


def abandoned(path: Path) -> bool:
    """Whether `path` is a temporary file or folder whose writer is dead."""
    pid = path.name.removeprefix(TEMPORARY).split(".")[0]
    return path.name.startswith(TEMPORARY) and pid.isdigit() and not Path(f"/proc/{pid}").exists()


@contextmanager
def translate_disk_errors(doing: str) -> Iterator[None]:
    """Raise NoSpace or EnvironmentFault for an OSError that means a full or read-only disk, one without locks, or a
    directory in place of a file and the reverse; `doing` names the step."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"no space left while {doing}",
                why=str(error.filename or error.strerror),
                hint="free some space and run again; finished work is kept",
            ) from error
        if error.errno in _UNWRITABLE:
            why = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
            hint = "choose --workspace DIR" + (" on a local file system" if error.errno == errno.ENOLCK else "")
            raise EnvironmentFault(f"cannot write while {doing}", why=why, hint=hint) from error
        raise


def machine_fault(error: BaseException) -> FlagreleaseError | None:
    """The fault of this machine that an unexpected exception stands for; None for a defect of flagrelease."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space and run again; finished work is kept"
        return NoSpace("no space left", why=str(error.filename or error.strerror), hint=hint)
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        place = f"{error.filename} cannot be used" if error.filename else "the operating system refused"
        hint = "check the permissions, the mount and the limits (`ulimit -a`), or choose --workspace DIR"
        return EnvironmentFault(place, why=error.strerror or str(error), hint=hint)
    if isinstance(error, MemoryError) or "can't start new thread" in str(error):
        why = "memory is used up" if isinstance(error, MemoryError) else str(error)
        return EnvironmentFault(
            "this machine has too few resources", why=why, hint="stop other programs, or raise the limits (`ulimit -a`)"
        )
    return None


def free_bytes(folder: Path) -> int:
    """Free bytes on the file system of `folder`, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` with `data`; readers see either the old file or the new one.

    Raises NoSpace, and EnvironmentFault for a path that cannot be written.
    """
    try:
        _write(path, data, mode)
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be written", why=error.strerror or str(error)) from error


def _write(path: Path, data: bytes, mode: int) -> None:
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
