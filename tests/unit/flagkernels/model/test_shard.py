"""The share of one device: shapes after the formulas of vLLM's public source, written out here once more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the chip side needs torch")
pytest.importorskip("transformers", reason="tracing builds the model with transformers")

from flagkernels import cli  # noqa: E402
from flagkernels.errors import UsageError  # noqa: E402
from flagkernels.model import architecture, trace  # noqa: E402
from flagkernels.model.shard import Share, gathered, padded, sharded  # noqa: E402
from flagkernels.model.trace import Point, Trace  # noqa: E402
from flagkernels.operators import catalogue  # noqa: E402
from support.small_model import config  # noqa: E402

SOURCE = """
__version__ = "5.0.2"
_FULL_CONFIG = (
    ("mm", mm), ("mm.out", mm_out), ("_grouped_mm", group_mm), ("argmax", argmax), ("clone", clone),
    ("_to_copy", to_copy), ("masked_fill_.Scalar", masked_fill_), ("embedding", embedding),
)
"""
KNOWN = catalogue.parse(SOURCE)
BATCH = 4
POINTS = (Point(phase="decode", batch=BATCH, length=8),)

# The sizes of the published config.json of each model, with few layers.
GQA = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8}
LLAMA_8B = {**GQA, "intermediate_size": 14336, "head_dim": None, "vocab_size": 128256, "pad_token_id": 128004}
QWEN3_8B = {**GQA, "intermediate_size": 12288, "head_dim": 128, "vocab_size": 151936}
EXPERTS = {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "decoder_sparse_step": 1}
QWEN3_30B_A3B = {**QWEN3_8B, **EXPERTS, "hidden_size": 2048, "intermediate_size": 6144, "num_key_value_heads": 4}


def traced(tmp_path: Path, kind: str, share: Share, *, execution: str = "captured", **sizes: Any) -> Trace:
    arch = architecture.read_config(config(tmp_path, kind, **sizes))
    return trace.trace(arch, POINTS, KNOWN, execution=execution, share=share)


def products(found: Trace) -> set[tuple[int, int]]:
    """(K, N) of all matrix products."""
    return {call.call.tensors[1].shape for call in found.calls if call.operator in ("mm", "mm_out")}  # type: ignore[misc]


def by_vllm(sizes: dict[str, Any], tensor: int) -> set[tuple[int, int]]:
    """QKVParallelLinear, RowParallelLinear, MergedColumnParallelLinear and ParallelLMHead of one rank."""
    hidden, heads, kv = sizes["hidden_size"], sizes["num_attention_heads"], sizes["num_key_value_heads"]
    size = sizes["head_dim"] or hidden // heads
    kv_heads = 1 if tensor >= kv else kv // tensor
    vocabulary = (sizes["vocab_size"] + 63) // 64 * 64
    found = {(hidden, (heads // tensor + 2 * kv_heads) * size), (heads // tensor * size, hidden)}
    found.add((hidden, vocabulary // tensor))
    if "num_experts" in sizes:  # the router is whole on every rank; the experts are no plain products
        return found | {(hidden, sizes["num_experts"])}
    width = sizes["intermediate_size"]
    return found | {(hidden, 2 * width // tensor), (width // tensor, hidden)}


@pytest.mark.parametrize(
    ("kind", "sizes", "tensor"),
    [
        ("llama", LLAMA_8B, 2),
        ("llama", LLAMA_8B, 16),
        ("qwen3", QWEN3_8B, 4),
        ("qwen3_moe", QWEN3_30B_A3B, 2),
        ("qwen3_moe", QWEN3_30B_A3B, 8),
    ],
)
def test_the_products_of_a_rank_are_those_of_vllm(
    tmp_path: Path, kind: str, sizes: dict[str, Any], tensor: int
) -> None:
    """More ranks than heads of keys and values have copies of these."""
    found = traced(tmp_path, kind, Share(tensor=tensor), **sizes)
    assert products(found) == by_vllm(sizes, tensor)
    assert found.share.tensor == tensor


@pytest.mark.parametrize(("whole", "width"), [(False, 768 // 4), (True, 768)])
def test_experts_are_split_or_stay_whole(tmp_path: Path, whole: bool, width: int) -> None:
    found = traced(tmp_path, "qwen3_moe", Share(tensor=4, whole_experts=whole), **QWEN3_30B_A3B)
    widths = {call.call.tensors[1].shape[1:] for call in found.calls if call.operator == "group_mm"}
    assert widths == {(2048, 2 * width), (width, 2048)}


def test_the_logits_of_all_ranks_are_sampled_without_the_padding(tmp_path: Path) -> None:
    found = traced(tmp_path, "llama", Share(tensor=2), vocab_size=500)
    assert (64, 256) in products(found)  # half of 512
    (copied,) = [c.call.tensors[0] for c in found.calls if c.operator == "clone"]
    assert (copied.shape, copied.stride) == ((BATCH, 2, 256), (256, BATCH * 256, 1))
    cast = [
        c.call.tensors[0] for c in found.calls if c.operator == "to_copy" and c.call.tensors[0].shape == (BATCH, 500)
    ]
    assert {spec.stride for spec in cast} == {(512, 1)}
    assert {500, 512} <= found.static


def test_tokens_of_other_parts_of_the_vocabulary_are_masked(tmp_path: Path) -> None:
    def masked(share: Share, execution: str) -> int:
        found = traced(tmp_path, "llama", share, execution=execution)
        return sum(sum(call.counts) for call in found.calls if call.operator == "masked_fill_")

    assert masked(Share(tensor=2), "eager") == 1
    assert masked(Share(tensor=2), "compiled") == masked(Share(), "eager") == 0


def test_gathered_parts_are_side_by_side() -> None:
    assert gathered(torch.zeros(3, 256), 2, 500).shape == (3, 500)
    whole = torch.zeros(3, 500)
    assert gathered(whole, 1, 500) is whole
    assert [padded(size) for size in (151936, 500, 1)] == [151936, 512, 64]


def test_latent_attention_is_split_by_its_heads(tmp_path: Path) -> None:
    """DeepSeek: ColumnParallelLinear of q_b and kv_b, RowParallelLinear of o; q_a and kv_a are whole."""
    ranks = {"q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12}
    experts = {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1}
    more = {"head_dim": 8, "num_key_value_heads": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
    found = products(traced(tmp_path, "deepseek_v3", Share(tensor=2), **ranks, **experts, **more))
    assert {(24, 2 * (16 + 8)), (16, 2 * (16 + 12)), (2 * 12, 64), (64, 24), (64, 16 + 8)} <= found


def test_linear_attention_is_split_by_its_heads(tmp_path: Path) -> None:
    """Qwen3.5 has mamba_ssm_dtype in its config, and no layer of Mamba."""
    heads = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "mamba_ssm_dtype": "float32"}
    arch = architecture.read_config(config(tmp_path, "qwen3_5_text", num_hidden_layers=4, **heads))
    part = sharded(arch, Share(tensor=2)).config
    assert (part.linear_num_key_heads, part.linear_num_value_heads) == (1, 2)
    with pytest.raises(UsageError, match="cannot be divided among 4"):
        sharded(arch, Share(tensor=4))


def test_a_group_has_its_layers_only(tmp_path: Path) -> None:
    arch = architecture.read_config(config(tmp_path, "llama", num_hidden_layers=7))
    assert sharded(arch, Share(pipeline=3)).config.num_hidden_layers == 3
    assert sharded(arch, Share(pipeline=3)).config.num_attention_heads == 4
    assert sharded(arch, Share()) is arch


@pytest.mark.parametrize(
    ("kind", "share", "sizes", "why"),
    [
        ("llama", Share(tensor=3), {}, "num_attention_heads is 4"),
        ("qwen3", Share(tensor=3), {"num_attention_heads": 6}, "num_key_value_heads is 2"),
        ("llama", Share(tensor=4), {"intermediate_size": 98}, "intermediate_size is 98"),
        ("llama", Share(pipeline=3), {}, "2 layers cannot be divided among 3 groups"),
        ("jamba", Share(tensor=2), {}, "layers whose split among devices is not known (mamba_"),
    ],
)
def test_what_cannot_be_divided_is_refused(
    tmp_path: Path, kind: str, share: Share, sizes: dict[str, Any], why: str
) -> None:
    arch = architecture.read_config(config(tmp_path, kind, **sizes))
    with pytest.raises(UsageError) as caught:
        sharded(arch, share)
    assert why in f"{caught.value.what} {caught.value.why}"


def test_the_program_traces_a_share_and_reads_it_back(tmp_path: Path) -> None:
    source = tmp_path / "flag_gems"
    source.mkdir()
    (source / "__init__.py").write_text(SOURCE)
    path, out = config(tmp_path, "llama"), tmp_path / "trace.json"
    argv = ["trace", "--config", str(path), "--out", str(out), "--catalogue", str(source), "--points", "decode:4x8"]
    assert cli.main([*argv, "--tensor", "2", "--whole-experts"]) == 0
    assert trace.read(out).share == Share(tensor=2, whole_experts=True)
    old = json.loads(out.read_text())
    del old["share"]  # of an older version
    out.write_text(json.dumps(old))
    assert trace.read(out).share == Share()
