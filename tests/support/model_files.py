"""The smallest files that are what their names say: safetensors and GGUF with given bytes as their tensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

CONFIG = b'{"architectures": ["Toy"]}'


def safetensors(tensors: Mapping[str, bytes]) -> bytes:
    """A safetensors file of one-dimensional U8 tensors."""
    header, end = {}, 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [end, end + len(data)]}
        end += len(data)
    return with_header(json.dumps(header).encode(), b"".join(tensors.values()))


def with_header(header: bytes, data: bytes) -> bytes:
    """A safetensors file with this header, whatever it says."""
    return len(header).to_bytes(8, "little") + header + data


def safetensors_of(data: bytes) -> bytes:
    """A safetensors file as long as `data`, which is its tensor but for the beginning."""
    start = safetensors({"a": b""})
    for length in range(len(data) - len(start), 0, -1):
        made = safetensors({"a": data[len(data) - length :]})
        if len(made) == len(data):
            return made
    raise ValueError(f"{len(data)} bytes are too few")


def gguf(data: bytes, *, keys: bytes = b"", count: int = 0) -> bytes:
    """A GGUF file with one I8 tensor; `keys` are `count` encoded entries of its header."""
    info = text("a") + struct.pack("<IQIQ", 1, len(data), 24, 0)
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, count) + keys + info
    return header + bytes(-len(header) % 32) + data


def text(value: str) -> bytes:
    """A string as GGUF writes it."""
    return struct.pack("<Q", len(value.encode())) + value.encode()
