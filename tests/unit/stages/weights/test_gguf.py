"""A GGUF file becomes safetensors with the same values, by the program that images carry, and by the weights stage."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flagrelease.contract import code_version

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch", reason="torch reads what was unpacked; requirements-kernels.lock has it")
gguf = pytest.importorskip("gguf", reason="gguf writes the model that is unpacked; requirements-kernels.lock has it")

PROGRAM = code_version.PACKAGE / "packaging/payload/gguf_to_safetensors.py"
HIDDEN, INNER, VOCABULARY, HEADS = 64, 96, 300, 2
TOKENS = ["<|end|>", "!!", *(chr(33 + n) if n < 94 else f"t{n}" for n in range(VOCABULARY - 2))]


def write(folder: Path, name: str = "tiny.gguf") -> dict[str, Any]:
    """A llama of one layer, its largest weight quantised; the values that it has."""
    folder.mkdir(parents=True, exist_ok=True)
    out = gguf.GGUFWriter(folder / name, "llama")
    out.add_context_length(128)
    out.add_embedding_length(HIDDEN)
    out.add_block_count(1)
    out.add_feed_forward_length(INNER)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(VOCABULARY)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("default")
    out.add_token_list(TOKENS)
    out.add_token_types([3, *[1] * (VOCABULARY - 1)])
    out.add_token_merges(["! !"])
    out.add_bos_token_id(0)
    out.add_eos_token_id(0)
    random = np.random.default_rng(1)
    shapes = {
        "token_embd": (VOCABULARY, HIDDEN),
        "output_norm": (HIDDEN,),
        "blk.0.attn_norm": (HIDDEN,),
        "blk.0.ffn_norm": (HIDDEN,),
        **{f"blk.0.attn_{part}": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")},
        **{f"blk.0.ffn_{part}": (INNER, HIDDEN) for part in ("gate", "up")},
        "blk.0.ffn_down": (HIDDEN, INNER),
    }
    values = {}
    for tensor, shape in shapes.items():
        value = random.standard_normal(shape).astype(np.float32)
        if tensor == "blk.0.ffn_up":
            kind = gguf.GGMLQuantizationType.Q4_1
            packed = gguf.quants.quantize(value, kind)
            out.add_tensor(f"{tensor}.weight", packed, raw_dtype=kind)
            value = gguf.quants.dequantize(packed, kind)
        else:
            out.add_tensor(f"{tensor}.weight", value)
        values[tensor] = value
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return values


def unpack(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, PROGRAM, source, target], capture_output=True, text=True, check=False)


def sums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.slow  # a start of torch and transformers
def test_the_values_are_those_of_the_file(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    values = write(tmp_path / "gguf")
    made = unpack(tmp_path / "gguf", tmp_path / "one")
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout.splitlines()[-1])
    assert (told["file"], set(told["versions"])) == (
        "tiny.gguf",
        {"accelerate", "gguf", "safetensors", "torch", "transformers"},
    )
    found = load_file(tmp_path / "one/model.safetensors")
    for theirs, ours in (("blk.0.ffn_up", "mlp.up_proj"), ("blk.0.ffn_down", "mlp.down_proj")):
        value = found[f"model.layers.0.{ours}.weight"]
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, torch.from_numpy(values[theirs]).bfloat16())
    config = json.loads((tmp_path / "one/config.json").read_text())
    assert (config["hidden_size"], config["dtype"], "quantization_config" in config) == (HIDDEN, "bfloat16", False)
    assert oct((tmp_path / "one/model.safetensors").stat().st_mode)[-3:] == "644"


@pytest.mark.slow  # two more starts of torch
def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    write(tmp_path / "gguf")
    for name in ("one", "two"):
        assert unpack(tmp_path / "gguf", tmp_path / name).returncode == 0
    assert sums(tmp_path / "one") == sums(tmp_path / "two")


def test_what_cannot_be_unpacked_says_why(tmp_path: Path) -> None:
    empty, two, full = tmp_path / "empty", tmp_path / "two", tmp_path / "full"
    for folder in (empty, two, full):
        folder.mkdir()
    (two / "a.gguf").touch()
    (two / "b.gguf").touch()
    (full / "x").touch()
    assert "must contain one GGUF file, but contains none" in unpack(empty, tmp_path / "t").stderr
    assert "but contains a.gguf, b.gguf" in unpack(two, tmp_path / "t").stderr
    (empty / "a.gguf").touch()
    assert "is not empty; name a new folder" in unpack(empty, full).stderr
