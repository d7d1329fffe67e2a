"""Operators for a real small model: the native ones, and a `silu` that is right in shape and five percent off."""

from __future__ import annotations

import os
from typing import Any

from support.flagkernels_native import OPERATORS as NATIVE


def scaled(factor: float) -> Any:
    inner = NATIVE["silu"]["silu"]
    return lambda x: inner(x) * factor


GOOD = {name: NATIVE[name] for name in ("mm", "silu", "rsqrt", "mean_dim", "pow_tensor_scalar", "cat", "embedding")}


def hollow(x: Any, y: Any) -> Any:
    """A product that multiplies nothing, and so is certainly faster: only for what looks at time alone."""
    return x.new_empty(x.shape[0], y.shape[1])


FAST = {**GOOD, "mm": {"mm": hollow}}
SILU_OFF = {**GOOD, "silu": {"silu": scaled(1.05)}}


def drifting(left: Any, right: Any, *, out: Any) -> Any:
    """A product into given memory, two percent off."""
    return out.copy_(NATIVE["mm"]["mm"](left, right) * 1.02)


MM_OUT_OFF = {**SILU_OFF, "mm_out": {"mm.out": drifting}}


def aborts(*_: Any) -> Any:
    os.abort()


MM_ABORTS = {**GOOD, "mm": {"mm": aborts}}
