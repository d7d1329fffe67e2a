"""The operators that a compiled model still calls: far fewer, and not by the same names.

Inductor writes element-wise work, reductions, look-ups and copies into kernels of its own. To aten it leaves matrix
products, into memory that it hands over (`mm.out`, an operator of its own in FlagGems' list, not `mm`), and what it has
no kernel for. tests/integration/flagkernels/test_flagkernels_compiled.py compares this with what compiled models call.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from flagkernels.operators.calls import OUT, base_name, overload_of, spec_of

__all__ = ["EXECUTIONS", "INTO", "fused", "left_to_aten", "running"]

EXECUTIONS = ("compiled", "captured", "eager")
"""How an engine runs the model: compiled and under CUDA graphs (vLLM's default), under graphs alone, or neither.
Logits and sampling are outside of both in every case."""

INTO = {"mm": "mm.out", "addmm": "addmm.out", "bmm": "bmm.out", "baddbmm": "baddbmm.out"}
"""Products that Inductor calls by the overload which writes into given memory (torch/_inductor/kernel/)."""
SOMETIMES = frozenset(["topk", "sort"])
"""Inductor has kernels for some sizes of these only."""


@functools.cache
def _lowered() -> frozenset[Any]:
    """The operators that become part of Inductor's kernels."""
    from torch._inductor import decomposition, lowering

    known = {*lowering.lowerings, *decomposition.decompositions} - set(lowering.fallbacks)
    products = {*INTO, *INTO.values()}  # these are lowered as well, but to calls
    return frozenset(op for op in known if isinstance(op, torch._ops.OpOverload) and overload_of(op) not in products)


def left_to_aten(func: torch._ops.OpOverload, args: tuple[Any, ...], result: Any) -> tuple[str, dict[str, Any]] | None:
    """The overload that a compiled model calls in place of `func`, and the arguments that come in addition; None where
    Inductor's own kernels do the work."""
    overload = overload_of(func) if func.namespace == "aten" else func._schema.name
    if overload in INTO:
        factors = [arg for arg in args if isinstance(arg, torch.Tensor)][-2:]
        if factors[0].shape[-1] == 1:
            return None  # an outer product is element-wise work
        return INTO[overload], {OUT: spec_of(result)}
    return None if fused(func) else (overload, {})


def fused(func: torch._ops.OpOverload) -> bool:
    """True where Inductor fuses this operator into a kernel of its own at every size."""
    return base_name(overload_of(func)) not in SOMETIMES and func in _lowered()


@contextlib.contextmanager
def running(module: nn.Module) -> Iterator[Callable[[], bool]]:
    """Whether this module is running: the part of a model that the engine compiles, where it runs as it is written."""
    now = False

    def becomes(value: bool) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            nonlocal now
            now = value

        return hook

    hooks = (
        module.register_forward_pre_hook(becomes(True)),
        module.register_forward_hook(becomes(False), always_call=True),
    )
    try:
        yield lambda: now
    finally:
        for hook in hooks:
            hook.remove()
