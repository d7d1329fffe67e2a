"""Predict the aten calls that remain after torch.compile: far fewer, and partly other overloads.

Inductor generates its own kernels for element-wise work, reductions, look-ups and copies. It calls aten for matrix
products, into preallocated memory (`mm.out`, which FlagGems lists as an operator separate from `mm`), and for
operators without a lowering. tests/integration/flagkernels/test_flagkernels_compiled.py compares this with the calls
of compiled models.
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
"""How an engine runs the model: compiled and under CUDA graphs (vLLM's default), under CUDA graphs alone, or neither.
Logits and sampling always run eagerly."""

INTO = {"mm": "mm.out", "addmm": "addmm.out", "bmm": "bmm.out", "baddbmm": "baddbmm.out"}
"""Products for which Inductor calls the overload that writes into given memory (torch/_inductor/kernel/)."""
SOMETIMES = frozenset(["topk", "sort"])
"""Operators that Inductor lowers for some sizes only."""


@functools.cache
def _lowered() -> frozenset[Any]:
    """The operators that Inductor compiles into its own kernels."""
    from torch._inductor import decomposition, lowering

    known = {*lowering.lowerings, *decomposition.decompositions} - set(lowering.fallbacks)
    products = {*INTO, *INTO.values()}  # also lowered, but to calls of aten
    return frozenset(op for op in known if isinstance(op, torch._ops.OpOverload) and overload_of(op) not in products)


def left_to_aten(func: torch._ops.OpOverload, args: tuple[Any, ...], result: Any) -> tuple[str, dict[str, Any]] | None:
    """The overload that a compiled model calls instead of `func`, and its additional arguments; None if Inductor
    compiles the call into its own kernels."""
    overload = overload_of(func) if func.namespace == "aten" else func._schema.name
    if overload in INTO:
        factors = [arg for arg in args if isinstance(arg, torch.Tensor)][-2:]
        if factors[0].shape[-1] == 1:
            return None  # Inductor treats an outer product as element-wise
        return INTO[overload], {OUT: spec_of(result)}
    return None if fused(func) else (overload, {})


def fused(func: torch._ops.OpOverload) -> bool:
    """True if Inductor compiles this operator into its own kernels at every size."""
    return base_name(overload_of(func)) not in SOMETIMES and func in _lowered()


@contextlib.contextmanager
def running(module: nn.Module) -> Iterator[Callable[[], bool]]:
    """Yield a function that reports whether this module is running. Used where the part of a model that the engine
    compiles is run eagerly."""
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
