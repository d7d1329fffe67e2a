"""What benchmarks/damaged_model.py does to a GGUF file: the tensors that it names, and no byte more."""

from __future__ import annotations

import struct
from pathlib import Path
from types import ModuleType

import jinja2
import numpy as np
import pytest

from support.benchmark_programs import opened

BLOCKS = 4


@pytest.fixture(scope="module")
def damaged() -> ModuleType:
    return opened("damaged_model")


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(path: Path) -> None:
    """Two Q4_1 tensors and a float one, after keys of several kinds."""
    keys = [text("general.name") + struct.pack("<I", 8) + text("x"), text("n") + struct.pack("<IQ", 10, 7)]
    keys.append(text("list") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b"))
    blocks = np.random.default_rng(1).integers(0, 256, (2 * BLOCKS, 20), np.uint8)
    blocks[:, :4] = np.array([[0.5, -3.0]] * 2 * BLOCKS, np.float16).view(np.uint8)
    data = blocks.tobytes() + np.ones(8, np.float32).tobytes()
    table = b""
    for name, sizes, kind, offset in (
        ("blk.1.a", (32, 4), 3, 0),
        ("blk.10.a", (32, 4), 3, 80),
        ("norm", (8,), 0, 160),
    ):
        shape = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
        table += text(name) + shape + struct.pack("<IQ", kind, offset)
    head = b"GGUF" + struct.pack("<IQQ", 3, 3, len(keys)) + b"".join(keys) + table
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)


def weights(path: Path, damaged: ModuleType, name: str) -> np.ndarray:
    one = next(tensor for tensor in damaged.tensors(path) if tensor.name == name)
    raw = np.frombuffer(path.read_bytes(), np.uint8)[one.start : one.start + one.weights // 32 * 20].reshape(-1, 20)
    ends = raw[:, :4].copy().view(np.float16).astype(np.float64)
    steps = np.concatenate([raw[:, 4:] & 15, raw[:, 4:] >> 4], axis=1)
    return ends[:, :1] * steps + ends[:, 1:]


def test_only_the_named_layer_is_scaled(damaged: ModuleType, tmp_path: Path) -> None:
    source, target = tmp_path / "a.gguf", tmp_path / "b" / "a.gguf"
    gguf(source)
    assert damaged.Damage("x", "blk.10.", damaged.scaled(1.5)).to(source, target) == 32 * BLOCKS
    assert np.allclose(weights(target, damaged, "blk.10.a"), 1.5 * weights(source, damaged, "blk.10.a"))
    assert np.array_equal(weights(target, damaged, "blk.1.a"), weights(source, damaged, "blk.1.a"))
    assert len(target.read_bytes()) == len(source.read_bytes())


def test_fewer_bits_leave_fewer_values_around_the_same_mean(damaged: ModuleType, tmp_path: Path) -> None:
    source, target = tmp_path / "a.gguf", tmp_path / "b" / "a.gguf"
    gguf(source)
    assert damaged.Damage("x", "blk.", damaged.coarser(2)).to(source, target) == 2 * 32 * BLOCKS
    before, after = (weights(path, damaged, "blk.1.a") for path in (source, target))
    assert len(np.unique(before)) == 16
    assert len(np.unique(after)) == 4
    assert np.abs(after - before).max() == pytest.approx(0.75)  # one and a half steps of 0.5
    assert target.read_bytes()[-32:] == source.read_bytes()[-32:]


def test_another_chat_template_takes_the_place_of_the_files_own(damaged: ModuleType, tmp_path: Path) -> None:
    source, target = tmp_path / "whole.gguf", tmp_path / "other" / "damaged.gguf"
    own = "x" * (len(damaged.TEMPLATE) + 40)
    before, after = b"GGUF...", b"...weights"
    source.write_bytes(before + text("tokenizer.chat_template") + struct.pack("<I", 8) + text(own) + after)
    assert damaged.OtherTemplate("other").to(source, target) == 0
    content = target.read_bytes()
    assert len(content) == source.stat().st_size
    assert content.startswith(before)
    assert content.endswith(f"{{#{' ' * 36}#}}".encode() + after)
    rendered = jinja2.Template(content[-len(own) - len(after) : -len(after)].decode()).render(
        messages=[{"role": "user", "content": "Hot?"}, {"role": "assistant", "content": "cold"}],
        add_generation_prompt=True,
    )
    assert rendered == "### Instruction:\nHot?\n\n### Response:\ncold\n\n### Response:\n"
    source.write_bytes(before + text("tokenizer.chat_template") + struct.pack("<I", 8) + text("short") + after)
    with pytest.raises(SystemExit, match="no chat template"):
        damaged.OtherTemplate("other").to(source, target)
