"""Compress a stream to gzip on all processors. The bytes follow from the content alone: not from the number of
processors, and not from how the content is cut into writes."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["Gzip", "usual"]

_BLOCK = 1 << 20
_WINDOW = 32 << 10
"""How far back a block may refer: the end of the block before it, so that cutting costs next to no size."""
_LEVEL = 5
"""Half the time of the usual 6, for layers that are 2 % larger."""
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # no name, no time, no operating system

_SAMPLE = "9de7a53d10fe04e9c5d6da6ba2117bc02ea4bc1cb72372da6647b8eba04a1f45"
"""sha256 of what zlib 1.2.13 makes of the text in `usual`."""


class Gzip:
    """A write-only binary file that compresses its content, with the methods that tarfile needs. `sink` gets the
    compressed bytes; `close` ends the stream."""

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self._sink, self._held, self._before = sink, bytearray(), b""
        self._crc, self._position = 0, 0
        self._workers = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._workers)  # zlib works without Python's lock
        self._running: deque[Future[bytes]] = deque()
        sink(_HEADER)

    def write(self, data: bytes) -> int:
        self._crc = zlib.crc32(data, self._crc)
        self._position += len(data)
        self._held += data
        while len(self._held) > _BLOCK:  # the last block is known as such only at the end
            self._start(bytes(self._held[:_BLOCK]), last=False)
            del self._held[:_BLOCK]
        return len(data)

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self._start(bytes(self._held), last=True)
        while self._running:
            self._sink(self._running.popleft().result())
        self._sink(struct.pack("<II", self._crc, self._position & 0xFFFFFFFF))
        self.abort()

    def abort(self) -> None:
        """Stop without an end."""
        self._pool.shutdown(cancel_futures=True)

    def _start(self, block: bytes, *, last: bool) -> None:
        while len(self._running) > 2 * self._workers:
            self._sink(self._running.popleft().result())
        self._running.append(self._pool.submit(_deflated, block, self._before, last=last))
        self._before = block[-_WINDOW:]


def _deflated(block: bytes, before: bytes, *, last: bool) -> bytes:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=before) if before else _first()
    return packer.compress(block) + packer.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)


def _first() -> zlib._Compress:
    return zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)


def usual() -> bool:
    """Whether this machine's zlib compresses like the original one; some replacements compress otherwise."""
    words = [hashlib.sha256(b"%d" % number).hexdigest()[: 3 + number % 11].encode() for number in range(256)]
    picked = b"".join(hashlib.sha256(b"text %d" % number).digest() for number in range(2000))
    content = b" ".join(words[byte] for byte in picked)
    return hashlib.sha256(_deflated(content, b"", last=True)).hexdigest() == _SAMPLE
