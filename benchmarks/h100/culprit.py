"""FlagGems' operators unchanged (RIGHT), and with two faults that small shapes do not reveal (OFF).

`silu` is 5 % too large at 256 rows or more: in prefill, never in a decode step. `rsqrt` is 2 % too large when at least
eight requests are decoded together. Importing this module needs the chip."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from flagkernels.operators.registry import FlagGems

OPERATORS = (
    "add",
    "arange",
    "cos",
    "embedding",
    "mean_dim",
    "neg",
    "pow_tensor_scalar",
    "rsqrt",
    "silu",
    "sin",
    "to_copy",
)
"""The correct operators that Qwen3-8B calls (docs/proofs/h100/operators.md), without the products, whose tuner would
take most of the time."""

_GEMS = FlagGems(configs=2)


def _off(factor: float, where: Callable[[torch.Tensor], bool]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def planted(right: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x: right(x) * factor if where(x) else right(x)

    return planted


def _rows(x: torch.Tensor) -> int:
    return x.numel() // x.shape[-1] if x.dim() else 1


FAULTS = {
    "silu": _off(1.05, lambda x: _rows(x) >= 256),
    "rsqrt": _off(1.02, lambda x: x.dim() > 2 and x.shape[0] >= 8 and x.shape[1] == 1),
}
RIGHT: Mapping[str, Mapping[str, Callable[..., Any]]] = {name: _GEMS.implementations(name) for name in OPERATORS}
OFF = {
    name: {key: FAULTS[name](right) for key, right in operators.items()} if name in FAULTS else operators
    for name, operators in RIGHT.items()
}
