"""sha256 of bytes, of files and of streams."""

from __future__ import annotations

import hashlib
from pathlib import Path


class Hashed:
    """A write-only binary file that hashes its content, with the methods that tarfile needs."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._position = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    @property
    def sha256(self) -> str:
        """64 hex digits."""
        return self._hash.hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 (64 hex digits) of the file's current content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of(data: bytes) -> str:
    """The sha256 (64 hex digits) of `data`."""
    return hashlib.sha256(data).hexdigest()
