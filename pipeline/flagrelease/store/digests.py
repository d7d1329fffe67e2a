"""sha256 of bytes, of a file, and of what is written."""

from __future__ import annotations

import hashlib
from pathlib import Path


class Hashed:
    """As much of a binary file as tarfile needs to write to one."""

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
    """The sha256 (hex) of the bytes that are on disk now."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of(data: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(data).hexdigest()
