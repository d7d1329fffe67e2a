"""Traces from config.json alone: four architectures, invalid files, and the engine view of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the chip side needs torch")
transformers = pytest.importorskip("transformers", reason="tracing builds the model with transformers")

from flagkernels import cli  # noqa: E402
from flagkernels.errors import NothingToDo, UsageError  # noqa: E402
from flagkernels.model import architecture, trace  # noqa: E402
from flagkernels.model.recorder import recording  # noqa: E402
from flagkernels.model.trace import Point, Trace, grid, parse_points  # noqa: E402
from flagkernels.operators import catalogue  # noqa: E402
from support.small_model import SIZES, config  # noqa: E402

# As flag_gems/__init__.py writes it: a tuple of (registration key, function, and sometimes a condition).
SOURCE = """
__version__ = "5.0.2"
_FULL_CONFIG = (
    ("_softmax", softmax), ("_to_copy", to_copy, lambda: True), ("_grouped_mm", group_mm), ("add.Tensor", add),
    ("addmm", addmm), ("arange", arange), ("bmm", bmm), ("cat", cat), ("cos", cos), ("embedding", embedding),
    ("gelu", gelu), ("mean.dim", mean_dim), ("mm", mm), ("mul.Tensor", mul), ("mul_.Tensor", mul_), ("neg", neg),
    ("pow.Tensor_Scalar", pow_tensor_scalar), ("rms_norm", rms_norm), ("rsqrt", rsqrt), ("silu", silu), ("sin", sin),
    ("sort", sort), ("topk", topk), ("nonzero", nonzero), ("mm.out", mm_out), ("argmax", argmax),
    ("exponential_", exponential_), ("index.Tensor", index), ("div_.Tensor", true_divide_),
)
"""
KNOWN = catalogue.parse(SOURCE)
POINTS = (Point(phase="prefill", batch=2, length=8), Point(phase="decode", batch=4, length=8))


def traced(
    tmp_path: Path,
    kind: str,
    *,
    view: str = "engine",
    execution: str = "captured",
    requests: str = "mixed",
    **changes: Any,
) -> Trace:
    arch = architecture.read_config(config(tmp_path, kind, **changes))
    return trace.trace(arch, POINTS, KNOWN, view=view, execution=execution, requests=requests)


def shapes(found: Trace, operator: str) -> set[tuple[tuple[int, ...], ...]]:
    return {tuple(t.shape for t in c.call.tensors) for c in found.calls if c.operator == operator}


MOE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}


@pytest.mark.parametrize(
    ("kind", "changes", "must"),
    [
        ("qwen3", {}, {"mm", "silu", "rsqrt", "mean_dim", "embedding", "mul", "add", "cat", "neg"}),
        ("llama", {}, {"mm", "silu", "rsqrt", "mean_dim"}),
        ("gemma3_text", {"layer_types": ["sliding_attention", "full_attention"]}, {"mm", "gelu", "rsqrt"}),
        ("qwen3_moe", MOE, {"mm", "group_mm", "softmax", "topk"}),
    ],
)
def test_an_architecture_is_traced_without_weights(
    tmp_path: Path, kind: str, changes: dict[str, Any], must: set[str]
) -> None:
    found = traced(tmp_path, kind, **changes)
    assert must <= set(found.operators)
    assert found.device == "meta"
    assert all(sum(c.counts) > 0 for c in found.calls)
    assert found.native_only["scaled_dot_product_attention"] == 4  # two layers, two points: attention is not decomposed


def test_the_engine_view_fuses_projections_and_uses_the_last_position_only(tmp_path: Path) -> None:
    fused, written = traced(tmp_path, "qwen3"), traced(tmp_path, "qwen3", view="module")
    # q: 64, k and v: 32 each, gate and up: 96 each; 16 tokens in prefill, 4 in decode; logits of one position each.
    assert ((16, 64), (64, 128)) in shapes(fused, "mm")
    assert ((4, 64), (64, 192)) in shapes(fused, "mm")
    assert ((2, 64), (64, 500)) in shapes(fused, "mm")
    assert ((16, 64), (64, 128)) not in shapes(written, "mm")
    assert ((16, 64), (64, 32)) in shapes(written, "mm")
    assert ((16, 64), (64, 500)) in shapes(written, "mm")


def test_compiled_layers_call_products_into_preallocated_memory(tmp_path: Path) -> None:
    """Inductor compiles norms, activations, look-ups and rotations, and calls `mm.out`; the head, which no engine
    compiles with them, calls `mm`."""
    found = traced(tmp_path, "qwen3", execution="compiled")
    assert found.execution == "compiled"
    assert shapes(found, "mm") == {((2, 64), (64, 500)), ((4, 64), (64, 500))}
    assert ((16, 64), (64, 192), (16, 192)) in shapes(found, "mm_out")
    count = [sum(c.counts[i] for c in found.calls if c.operator == "mm_out") for i in range(2)]
    assert count == [2 * 4, 2 * 4]
    assert not {"silu", "rsqrt", "mean_dim", "mul", "cat", "embedding", "cos", "bmm"} & set(found.operators)
    assert {name for c in found.calls for name, _ in c.call.kwargs if c.operator == "mm_out"} == {"out"}


def test_compiled_experts_keep_what_inductor_has_no_kernel_for(tmp_path: Path) -> None:
    found = traced(tmp_path, "qwen3_moe", execution="compiled", **MOE)
    assert {"mm_out", "group_mm", "topk"} <= set(found.operators)


def test_the_end_of_a_step_runs_eagerly(tmp_path: Path) -> None:
    for execution in ("compiled", "captured", "eager"):
        found = traced(tmp_path, "llama", execution=execution)
        assert {"argmax", "to_copy", "softmax", "exponential_", "true_divide_"} <= set(found.operators)
        assert ((4, 500),) in shapes(found, "argmax")
        assert {((16, 64), (2,)), ((4, 64), (4,))} <= shapes(found, "index")  # the last position of each request
    assert "argmax" not in traced(tmp_path, "llama", view="module").operators


def test_greedy_requests_do_not_sample(tmp_path: Path) -> None:
    mixed, greedy = (traced(tmp_path, "llama", execution="compiled", requests=name) for name in ("mixed", "greedy"))
    drawing = {"softmax", "exponential_", "true_divide_"}
    assert drawing < set(mixed.operators)
    assert {"argmax", "to_copy", "index", "mm"} <= set(greedy.operators) <= set(mixed.operators) - drawing
    assert (mixed.requests, greedy.requests) == ("mixed", "greedy")
    (tmp_path / "trace.json").write_text(json.dumps(greedy.to_json()))
    assert trace.read(tmp_path / "trace.json") == greedy


def test_calls_are_counted_at_each_point(tmp_path: Path) -> None:
    found = traced(tmp_path, "qwen3")
    count = [sum(c.counts[i] for c in found.calls if c.operator == "mm") for i in range(2)]
    assert count == [2 * 4 + 1, 2 * 4 + 1]  # qkv, o, gate-up and down in two layers, and the logits


def test_a_composite_operator_that_flaggems_registers_is_not_decomposed(tmp_path: Path) -> None:
    class Norm(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.nn.functional.linear(torch.rms_norm(x, (64,)), torch.zeros(8, 64, device="meta"))

    with torch.inference_mode(), recording(KNOWN) as recorder:
        Norm()(torch.zeros(2, 4, 64, device="meta"))
    assert [call.overload for call in recorder.calls] == ["rms_norm", "mm"]


def test_a_model_that_meta_cannot_run_gets_random_weights(tmp_path: Path) -> None:
    """The eager mixture of experts reads which experts were hit, which needs values."""
    arch = architecture.read_config(config(tmp_path, "qwen3_moe", num_hidden_layers=4, **MOE))
    arch.config._experts_implementation = "eager"
    found = trace.trace(arch, POINTS, KNOWN)
    assert (found.device, found.layers) == ("cpu", 2)
    assert {"mm_out", "topk"} <= set(found.operators)


def test_a_trace_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    found = traced(tmp_path, "llama")
    (tmp_path / "trace.json").write_text(json.dumps(found.to_json()))
    assert trace.read(tmp_path / "trace.json") == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "not a model's config.json"),
        ('{"hidden_size": 64}', "no model_type"),
        ('{"model_type": "qwen9"}', "did you mean 'qwen"),
        ('{"model_type": "clip"}', "not a causal language model"),
        ('{"model_type": "t5"}', "or an encoder-decoder"),
        ("[" * 100_000, "is not JSON"),
        ('{"model_type": "own", "auto_map": {}}', "ships custom code (auto_map), which is not run"),
        (json.dumps({"model_type": "llama", **SIZES, "hidden_act": "sillu"}), "KeyError: 'sillu'"),
        (json.dumps({"model_type": "llama", **SIZES, "hidden_size": -64}), "negative dimension"),
        (json.dumps({"model_type": "llama", **SIZES, "text_config": {"a": 1}}), "transformers cannot build"),
    ],
)
def test_a_file_that_is_not_a_model_is_rejected(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        trace.trace(architecture.read_config(path), POINTS, KNOWN)
    assert says in str(caught.value)


def test_the_language_model_of_a_multimodal_model_is_traced(tmp_path: Path) -> None:
    """transformers cannot build Qwen2.5-VL's language model alone: the complete model runs on text only."""
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
    rope = {"type": "mrope", "mrope_section": [2, 3, 3]}
    path = config(tmp_path, "qwen2_5_vl", vision_config=vision, rope_scaling=rope)
    found = trace.trace(architecture.read_config(path), POINTS, KNOWN)
    assert (found.model, found.layers, found.device) == ("qwen2_5_vl", 2, "meta")
    assert {"mm", "mm_out"} <= set(found.operators)
    # Gate and up of the four requests of a decode step.
    assert ((4, 64), (64, 192), (4, 192)) in shapes(found, "mm_out")


def test_a_nested_config_takes_the_dtype_of_the_outer_one(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    text = {name: value for name, value in SIZES.items() if name != "dtype"}
    path.write_text(json.dumps({"model_type": "gemma3", "text_config": text, "dtype": "float16"}))
    found = trace.trace(architecture.read_config(path), POINTS, KNOWN)
    assert found.dtype == "float16"
    assert {t.dtype for c in found.calls if c.operator == "mm_out" for t in c.call.tensors} == {"float16"}


def test_a_model_without_any_operator_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NothingToDo):
        trace.trace(
            architecture.read_config(config(tmp_path, "llama")),
            POINTS,
            catalogue.Catalogue("0", {"erfinv": "erfinv"}),
        )


def test_the_grid_covers_the_limits_with_their_ends() -> None:
    points = grid(max_len=4096, max_batch=32, max_tokens=8192)
    assert Point(phase="prefill", batch=1, length=4096) in points
    assert Point(phase="prefill", batch=32, length=256) in points
    assert Point(phase="decode", batch=32, length=4095) in points
    assert Point(phase="decode", batch=8, length=4095) in points
    assert grid(max_len=1, max_batch=1, max_tokens=1)
    with pytest.raises(UsageError):
        grid(max_len=0, max_batch=1, max_tokens=1)


def test_points_on_the_command_line() -> None:
    assert parse_points("prefill:1x512, decode:32x2048")[1] == Point(phase="decode", batch=32, length=2048)
    for wrong in ("train:1x2", "decode:1", "decode:0x4", ""):
        with pytest.raises(UsageError):
            parse_points(wrong)


def test_unknown_operator_names_get_a_suggestion() -> None:
    assert KNOWN.require(["mul"]) == ("mul",)
    with pytest.raises(UsageError, match="did you mean 'rms_norm'"):
        KNOWN.require(["rmsnorm"])


def test_the_command_line_says_what_is_wrong_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trace", "--config", str(tmp_path / "none.json"), "--out", str(tmp_path / "t.json")]) == 2
    assert "next: give the model's config.json" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--max-len 0", "--max-batch -1", "--max-tokens many", "--layers 0"])
def test_a_limit_that_makes_no_sense_is_a_usage_error(
    tmp_path: Path, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["trace", "--config", "config.json", "--out", str(tmp_path / "t.json"), *words.split()])
    assert ended.value.code == 2
    assert "is not an integer >= 1" in capsys.readouterr().err


def test_an_unwritable_path_is_reported_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("a file")
    out = tmp_path / "taken/t.json"
    assert cli.main(["trace", "--config", str(config(tmp_path, "llama")), "--out", str(out), *one_point(tmp_path)]) == 6
    assert "next: choose a writable path" in capsys.readouterr().err


def one_point(tmp_path: Path) -> list[str]:
    folder = tmp_path / "flag_gems"
    folder.mkdir()
    (folder / "__init__.py").write_text(SOURCE)
    return ["--catalogue", str(folder), "--points", "prefill:1x8"]


def test_the_command_line_traces_from_a_wheel(tmp_path: Path) -> None:
    import zipfile

    wheel = tmp_path / "flag_gems-5.0.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("flag_gems/__init__.py", SOURCE)
    out = tmp_path / "trace.json"
    words = ["trace", "--config", str(config(tmp_path, "llama")), "--catalogue", str(wheel), "--out", str(out)]
    assert cli.main([*words, "--max-len", "32", "--max-batch", "2", "--max-tokens", "32"]) == 0
    assert "mm" in trace.read(out).operators


def test_a_model_that_is_cut_keeps_a_layer_of_each_kind(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    path = config(tmp_path, "gemma3_text", num_hidden_layers=4, layer_types=kinds)
    found = trace.trace(architecture.read_config(path), POINTS, KNOWN, layers=1)
    assert found.layers == 3
