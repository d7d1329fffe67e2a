"""Overrides in a part of the model that is compiled when served."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the chip side needs torch")

from flagkernels.operators.listing import Operators  # noqa: E402
from flagkernels.operators.override import installed  # noqa: E402
from flagkernels.operators.registry import Planted  # noqa: E402
from support.flagkernels_native import native  # noqa: E402

CPU = torch.device("cpu")


class Layers(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.nn.functional.silu(torch.mm(x, x))


class Breaks(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        raise ValueError(f"no layers for {x.shape}")


def counting(calls: Counter[str], *keys: str) -> Planted:
    def counted(key: str) -> Any:
        kernel = native(key)

        def run(*args: Any, **kwargs: Any) -> Any:
            calls[key] += 1
            return kernel(*args, **kwargs)

        return run

    return Planted({key.replace(".", "_"): {key: counted(key)} for key in keys})


def run(layers: Any, include: tuple[str, ...], *, compiled: bool) -> tuple[Counter[str], dict[str, int]]:
    """Layers and a head, as in a model."""
    calls: Counter[str] = Counter()
    x = torch.eye(4)
    with torch.inference_mode():
        expected = torch.mm(layers(x), x)
        source = counting(calls, "mm", "mm.out", "silu")
        with installed(source, Operators(include=include), CPU, layers if compiled else None) as told:
            assert torch.equal(torch.mm(layers(x), x), expected)
    return calls, told


def test_products_of_compiled_layers_go_into_given_memory_and_activations_stay_native() -> None:
    calls, told = run(Layers(), ("mm", "mm_out", "silu"), compiled=True)
    assert calls == {"mm": 1, "mm.out": 1}  # the head, and the layers
    assert told == {"mm": 1, "mm_out": 1, "silu": 0}


def test_layers_as_they_are_written_call_what_is_written() -> None:
    calls, _ = run(Layers(), ("mm", "mm_out", "silu"), compiled=False)
    assert calls == {"mm": 2, "silu": 1}


def test_an_operator_that_is_not_chosen_is_not_called_in_compiled_layers() -> None:
    assert run(Layers(), ("mm",), compiled=True)[0] == {"mm": 1}
    assert run(Layers(), ("mm_out",), compiled=True)[0] == {"mm.out": 1}


def test_layers_that_fail_are_left_behind() -> None:
    calls: Counter[str] = Counter()
    layers = Breaks()
    with torch.inference_mode(), installed(counting(calls, "mm"), Operators(include=("mm",)), CPU, layers):
        with pytest.raises(ValueError, match="no layers"):
            layers(torch.eye(2))
        torch.mm(torch.eye(2), torch.eye(2))
    assert calls == {"mm": 1}
