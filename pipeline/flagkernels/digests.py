"""Content digests, and detection of a full disk."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterable
from pathlib import Path

from flagkernels.errors import NoSpace

__all__ = ["FREE_SPACE", "directory_digest", "file_sha256", "no_space"]


FREE_SPACE = "free some space and run the same command again: finished measurements are kept"


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file. Raises OSError if it cannot be read."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def directory_digest(root: Path, files: Iterable[Path]) -> str:
    """sha256 over `relative path NUL sha256 NEWLINE` of the files, sorted by path; times and modes are ignored."""
    total = hashlib.sha256()
    for relative in sorted(file.relative_to(root).as_posix() for file in files):
        total.update(f"{relative}\0{file_sha256(root / relative)}\n".encode())
    return total.hexdigest()


def no_space(error: BaseException, path: Path) -> NoSpace | None:
    """A NoSpace error if `error` or one of its causes reports a full disk, otherwise None."""
    seen: BaseException | None = error
    while seen is not None:
        full = isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "database or disk is full" in str(seen) or "No space left on device" in str(seen):
            return NoSpace(
                f"no space left while writing {path}",
                why=str(seen).splitlines()[0],
                hint=FREE_SPACE,
            )
        seen = seen.__cause__ or seen.__context__
    return None
