"""Check safetensors and GGUF files by their headers, without reading tensors. Pure but for the stream."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO, TypeGuard

_LARGEST_SAFETENSORS_HEADER = 100_000_000  # the limit of the format's own reader
_MOST_DIMENSIONS = 4  # of a tensor in GGUF
_LONGEST_KEY = 65_535
_DEFAULT_ALIGNMENT = 32
_MOST_ENTRIES = 1 << 22  # of a GGUF header, such as the tokens of a vocabulary; one that claims more is damaged

_BITS = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
"""Bits of a value, by the dtype of safetensors."""

# fmt: off
_BLOCKS: Mapping[int, tuple[int, int]] = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18),
}
# fmt: on
"""Values and bytes of a block, by ggml's number of the type; those between were withdrawn."""

_NEWEST_TYPE = max(_BLOCKS)
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a GGUF value by its type, except for strings (8) and arrays (9)."""
_STRING, _ARRAY = 8, 9


class Malformed(Exception):
    """The file is not what its name says; the text says why."""


def safetensors_names(stream: BinaryIO, size: int) -> frozenset[str]:
    """The names of the tensors in a safetensors file of `size` bytes. Raises Malformed unless the header is complete
    and its tensors fill the rest of the file exactly."""
    prefix = stream.read(8)
    if len(prefix) < 8:
        raise Malformed(f"it has {size} bytes, too few for a safetensors header")
    length = int.from_bytes(prefix, "little")
    if length > min(size - 8, _LARGEST_SAFETENSORS_HEADER):
        raise Malformed(f"not a complete safetensors file: a header of {length} bytes in a file of {size}")
    header = _header(stream.read(length))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Malformed("__metadata__ in its header is not a map of texts")
    if not header:
        raise Malformed("it holds no tensors")
    end = 0
    for name, (start, stop) in sorted(
        ((name, _span(name, entry)) for name, entry in header.items()), key=lambda s: s[1]
    ):
        if start != end:
            raise Malformed(f"tensor {name!r} starts at byte {start} of the data, where {end} is expected")
        end = stop
    if end != size - 8 - length:
        raise Malformed(f"its tensors need {end} bytes, and it has {size - 8 - length}")
    return frozenset(header)


def _header(raw: bytes) -> dict[str, Any]:
    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise Malformed("its header names a key twice")
        return found

    try:
        header = json.loads(raw.decode(), object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not a safetensors file: its header is not JSON ({_brief(error)})") from None
    if not isinstance(header, dict):
        raise Malformed("not a safetensors file: its header is not a JSON object")
    return header


def _span(name: str, entry: object) -> tuple[int, int]:
    """Start and end of a tensor's bytes. Raises Malformed unless they fit its type and shape."""
    if not isinstance(entry, Mapping):
        raise Malformed(f"tensor {name!r} is not described by an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise Malformed(f"tensor {name!r} has the unknown type {dtype!r}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise Malformed(f"tensor {name!r} has no valid shape and offsets")
    start, stop = offsets
    if (stop - start) * 8 != prod(shape) * _BITS[dtype]:
        raise Malformed(f"tensor {name!r} has {stop - start} bytes, which do not fit {dtype} {list(shape)}")
    return start, stop


def _naturals(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    """One tensor of a GGUF file."""

    name: str
    dimensions: tuple[int, ...]
    kind: int
    """ggml's number of its type."""
    offset: int
    """Of its first byte, from the start of the data."""

    @property
    def end(self) -> int:
        """The offset behind its last byte. Raises Malformed if its shape does not fit its type."""
        if self.kind not in _BLOCKS:
            if self.kind <= _NEWEST_TYPE:
                raise Malformed(f"tensor {self.name!r} has type {self.kind}, which ggml does not have")
            return self.offset + 1  # a newer type, whose size is unknown here
        values, octets = _BLOCKS[self.kind]
        if not self.dimensions or self.dimensions[0] % values:
            raise Malformed(f"tensor {self.name!r} has shape {list(self.dimensions)}, which does not fit its type")
        return self.offset + prod(self.dimensions) // values * octets


def check_gguf(stream: BinaryIO, size: int) -> None:
    """Raise Malformed unless a GGUF file of `size` bytes has a complete header and all of its tensors."""
    reader = _Reader(stream, size)
    if reader.take(4) != b"GGUF":
        raise Malformed("not a GGUF file: it does not start with GGUF")
    version = reader.number(4)
    if version not in (2, 3):
        swapped = " (it is big-endian)" if int.from_bytes(version.to_bytes(4, "little"), "big") in (2, 3) else ""
        raise Malformed(f"GGUF version {version} is not supported{swapped}")
    tensors, pairs = reader.count(), reader.count()
    kept: dict[str, int] = {}
    for _ in range(pairs):
        key, kind = reader.text(_LONGEST_KEY), reader.number(4)
        if key in ("general.alignment", "split.count") and _SCALARS.get(kind, 8) <= 4:
            kept[key] = reader.number(_SCALARS[kind])
        else:
            reader.skip(kind)
    found = [reader.tensor() for _ in range(tensors)]
    alignment = kept.get("general.alignment", _DEFAULT_ALIGNMENT)
    if alignment == 0 or alignment % 8:
        raise Malformed(f"its alignment of {alignment} bytes is not a multiple of 8")
    data = -(-reader.position // alignment) * alignment
    if not found and kept.get("split.count", 0) < 2:
        raise Malformed("it holds no tensors")
    for tensor in found:
        if tensor.offset % alignment or data + tensor.end > size:
            raise Malformed(f"tensor {tensor.name!r} ends at byte {data + tensor.end} of {size}")


class _Reader:
    """Reads a GGUF header, and raises Malformed where the file ends before it."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size
        self._entries = 0
        self.position = 0

    def take(self, count: int) -> bytes:
        self._advance(count)
        return self._stream.read(count)

    def count(self) -> int:
        """A number of entries that follow."""
        return self._counted(self.number(8))

    def _counted(self, number: int) -> int:
        self._entries += number
        if self._entries > _MOST_ENTRIES:
            raise Malformed(f"its header claims {number} entries")
        return number

    def _advance(self, count: int) -> None:
        self.position += count
        if self.position > self._size:
            raise Malformed(f"its header ends after its {self._size} bytes")

    def number(self, octets: int) -> int:
        return int.from_bytes(self.take(octets), "little")

    def text(self, longest: int) -> str:
        length = self.number(8)
        if length > longest:
            raise Malformed(f"a name in its header has {length} bytes")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise Malformed("a name in its header is not UTF-8") from None

    def tensor(self) -> _Tensor:
        name, count = self.text(_LONGEST_KEY), self.number(4)
        if count > _MOST_DIMENSIONS:
            raise Malformed(f"tensor {name!r} has {count} dimensions")
        dimensions = struct.unpack(f"<{count}Q", self.take(8 * count))
        return _Tensor(name=name, dimensions=dimensions, kind=self.number(4), offset=self.number(8))

    def skip(self, kind: int) -> None:
        """Pass over a value."""
        if kind in _SCALARS:
            self._pass(_SCALARS[kind])
        elif kind == _STRING:
            self._pass(self.number(8))
        elif kind == _ARRAY:
            inner, count = self.number(4), self.number(8)
            if inner in _SCALARS:
                self._pass(_SCALARS[inner] * count)
            elif inner == _STRING:
                self._pass_strings(self._counted(count))
            else:  # llama.cpp reads no arrays of arrays
                raise Malformed(f"an array in its header has values of the unknown type {inner}")
        else:
            raise Malformed(f"a value in its header has the unknown type {kind}")

    def _pass_strings(self, count: int) -> None:
        # Vocabularies have hundreds of thousands: a loop without further calls takes a third of the time.
        read, position, size = self._stream.read, self.position, self._size
        for _ in range(count):
            length = int.from_bytes(read(8), "little")
            position += 8 + length
            if position > size:
                break
            if length > _LONGEST_KEY:
                self._stream.seek(length, 1)
            else:
                read(length)
        self._advance(position - self.position)

    def _pass(self, count: int) -> None:
        self._advance(count)
        self._stream.seek(count, 1)


def _brief(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error))[:100] or type(error).__name__
