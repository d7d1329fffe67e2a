"""The predicted calls of a compiled model, compared with those of torch.compile."""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the chip side needs torch")
transformers = pytest.importorskip("transformers", reason="tracing builds the model with transformers")

from flagkernels.measure.served import ServedModel  # noqa: E402
from flagkernels.model import architecture, trace  # noqa: E402
from flagkernels.model.trace import Point  # noqa: E402
from flagkernels.operators.calls import Call, spec_of  # noqa: E402
from flagkernels.operators.catalogue import Catalogue  # noqa: E402
from flagkernels.operators.listing import Operators  # noqa: E402
from flagkernels.operators.registry import Planted, native_kernel, quiet_override  # noqa: E402
from support.small_model import config  # noqa: E402

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU"),
]
KEYS = ("mm", "mm.out", "addmm", "addmm.out", "bmm", "bmm.out", "cat", "embedding", "silu", "rsqrt", "mul.Tensor")
KNOWN = Catalogue("5.0.2", {key: key for key in KEYS})
LOAD = Point(phase="decode", batch=4, length=32)


def products(calls: dict[Call, int]) -> dict[tuple[str, Any], int]:
    """The number of calls of each product, by overload and shapes."""
    return {(call.overload, tuple(t.shape for t in call.tensors)): count for call, count in calls.items()}


def called(model: ServedModel) -> Counter[Call]:
    """The calls that reach the dispatcher in one step."""
    seen: Counter[Call] = Counter()
    library = torch.library.Library("aten", "IMPL")

    def recorded(key: str) -> Any:
        native = native_kernel(key, "CPU")
        assert native is not None

        def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
            seen[Call(key, tuple(map(spec_of, args)), tuple((n, spec_of(v)) for n, v in kwargs.items()))] += 1
            return native(keyset, *args, **kwargs)

        return kernel

    try:
        for key in KEYS:
            if native_kernel(key, "CPU") is not None:
                quiet_override(library, key, recorded(key), "CPU", with_keyset=True)
        with torch.inference_mode():
            model.steps[str(LOAD)]()
    finally:
        library._destroy()
    return seen


@pytest.mark.slow  # compiles a model
@pytest.mark.parametrize(
    "kind",
    [
        "qwen3",
        pytest.param("qwen2", marks=pytest.mark.slow),  # its projections add a bias
        pytest.param("llama", marks=pytest.mark.slow),
        pytest.param("gemma3_text", marks=pytest.mark.slow),
    ],
)
def test_a_compiled_model_calls_what_the_trace_predicts(tmp_path: Path, kind: str) -> None:
    arch = architecture.read_config(config(tmp_path, kind))
    traced = trace.trace(arch, [LOAD], KNOWN, execution="compiled")
    said = products({t.call: t.counts[0] for t in traced.calls})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ServedModel(arch, Planted({}), torch.device("cpu"), [LOAD], pairs=2)
        assert products(called(model)) == said
        _serves_with(model, kind)


def _serves_with(model: ServedModel, kind: str) -> None:
    """Compiled layers call an operator that is installed after their compilation."""
    into = native_kernel("mm.out", "CPU")
    keyset = torch._C._dispatch_keyset_full_after(torch._C.DispatchKey.AutogradCPU)
    count: Counter[str] = Counter()

    def counted(*args: Any, **kwargs: Any) -> Any:
        count["mm.out"] += 1
        return into(keyset, *args, **kwargs)

    model.source = Planted({"mm_out": {"mm.out": counted}})
    found = model.compare(Operators(include=("mm_out",), execution="compiled"))
    assert (set(found.ratios), found.ran) == ({str(LOAD)}, {"mm_out"}), kind
    assert count["mm.out"] >= 2 * 2 * 3  # pairs, each after one untimed step, two layers of three products or more
