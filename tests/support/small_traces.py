"""Traces of a few planted calls."""

from __future__ import annotations

import torch

from flagkernels.model.trace import Point, Trace, TracedCall
from flagkernels.operators.calls import Call, TensorSpec


def spec(*shape: int, dtype: str = "bfloat16") -> TensorSpec:
    stride = [1]
    for size in reversed(shape[1:]):
        stride.append(stride[-1] * size)
    return TensorSpec(tuple(shape), tuple(reversed(stride)), dtype)


def trace_of(*calls: tuple[str, Call]) -> Trace:
    return Trace(
        model="planted",
        config_sha256="0" * 64,
        view="module",
        execution="eager",
        dtype="bfloat16",
        versions={"torch": torch.__version__},
        points=(Point(phase="decode", batch=1, length=8),),
        static=frozenset({96}),
        calls=tuple(TracedCall(operator, call, (1,)) for operator, call in calls),
        native_only={},
        layers=1,
        device="meta",
    )
