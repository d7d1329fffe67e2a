"""A file that keeps only the sha256 of what is written to it."""

from __future__ import annotations

import hashlib


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
