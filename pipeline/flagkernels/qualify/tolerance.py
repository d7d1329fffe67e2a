"""Componentwise error bounds from dtype and reduction length.

u is the unit roundoff: 2⁻⁸ for bfloat16, 2⁻¹¹ for float16, 2⁻²⁴ for float32. Kernels for 16-bit data accumulate in
float32, so inner errors carry u₃₂, and one final rounding carries the result's own u.

A sum of n products has |error| ≤ γ·Σ|aᵢ||bᵢ|. The worst case γₙ = n·u/(1 − n·u) (Higham, Accuracy and Stability of
Numerical Algorithms, 2nd ed., 2002, §3.1, §3.5) is far above actual errors and would hide a kernel that is wrong by one
percent; we use the probabilistic γ̃ₙ(λ) = exp(λ·√n·u + n·u²/(1 − u)) − 1 (Higham and Mary, A New Approach to
Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 41(5), 2019, Theorem 2.4), which fails with probability
2·exp(−λ²(1 − u)²/2); λ = 8 makes that 3·10⁻¹⁴ per element. Softmax: Blanchard, Higham and Higham, Accurately computing
the log-sum-exp and softmax functions, IMA J. Numer. Anal. 41(4), 2021, §4: relative error grows with |x − max|.
Everything else is held to mixed forward–backward stability (Higham 2002, §1.5): the result must be within a few u of
the exact result for inputs perturbed by a few u; its change is measured by perturbing the inputs in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from flagkernels.operators.calls import base_name

__all__ = ["EXACT", "INDICES", "MATMUL", "bound", "gain_limit", "gamma", "map_floats", "roundoff"]

LAMBDA = 8.0
PERTURBATION = 2.0**-20
EXACT = frozenset(
    [
        "_to_copy",
        "copy_",
        "cat",
        "stack",
        "embedding",
        "index",
        "index_select",
        "gather",
        "index_put_",
        "scatter",
        "masked_fill",
        "masked_fill_",
        "where",
        "neg",
        "abs",
        "ones",
        "zeros",
        "full",
        "fill_",
        "zero_",
        "arange",
        "ones_like",
        "zeros_like",
        "full_like",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "isnan",
        "isinf",
        "isfinite",
        "logical_not",
        "logical_and",
        "logical_or",
        "bitwise_and",
        "bitwise_or",
        "bitwise_not",
        "maximum",
        "minimum",
        "clamp",
        "clamp_",
        "clamp_min",
        "relu",
        "triu",
        "tril",
        "flip",
        "repeat",
        "repeat_interleave",
        "constant_pad_nd",
        "all",
        "any",
        "nonzero",
        "isin",
        "max",
        "min",
        "amax",
        "amin",
        "sort",
        "topk",
        "select_scatter",
        "slice_scatter",
        "scatter_",
        "lift_fresh_copy",
        "resolve_neg",
        "resolve_conj",
        "eye",
        "diag",
        "hstack",
        "vstack",
        "sort.stable",
    ]
)
MATMUL = frozenset(["mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot", "vdot", "_grouped_mm"])
SUMS = frozenset(["sum", "mean", "cumsum"])
SOFTMAX = frozenset(["_softmax", "_safe_softmax"])
INDICES = frozenset(["argmax", "argmin", "topk", "sort", "max", "min", "argsort"])


def roundoff(dtype: torch.dtype) -> float:
    """u: half the distance from one to the next larger number."""
    return torch.finfo(dtype).eps / 2 if dtype.is_floating_point else 0.0


def inner_roundoff(dtype: torch.dtype) -> float:
    """The accumulator's u: that of float32 for 16-bit and float32 data."""
    return roundoff(torch.float64 if dtype is torch.float64 else torch.float32)


def gamma(n: int, u: float, lam: float = LAMBDA) -> float:
    """γ̃ₙ(λ). For short sums it exceeds the worst case, which leaves room for elementary functions, whose documented
    errors are up to four ulps (CUDA C++ Programming Guide, Mathematical Functions)."""
    return math.expm1(lam * math.sqrt(n) * u + n * u * u / (1 - u))


def gain_limit(dtype: torch.dtype) -> float:
    """Largest allowed deviation from one of the regression slope of result on reference, over >= 1000 elements.

    Rounding errors of single elements average out; a systematic factor does not. Half a unit roundoff exceeds the
    averaged rounding errors, and in every dtype is below an error of one percent."""
    return max(roundoff(dtype) / 2, 1e-5)


def bound(
    overload: str,
    exact: Callable[..., Sequence[torch.Tensor]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    reference: Sequence[torch.Tensor],
    dtypes: Sequence[torch.dtype],
) -> list[torch.Tensor]:
    """A tensor of allowed absolute errors for each result.

    args, kwargs, reference: in float64; dtypes: of the results of the operator under test; `exact` runs the native
    float64 operator. A pointwise operator counts as a sum of one term."""
    name = base_name(overload)
    if name in EXACT:
        return [torch.zeros_like(ref, dtype=torch.float64) for ref in reference]
    limits = []
    scales = _scales(name, exact, args, kwargs, reference)
    length = _length(name, args, reference)
    for ref, scale, dtype in zip(reference, scales, dtypes, strict=True):
        inner = gamma(max(length, 1), inner_roundoff(dtype))
        tiny = torch.finfo(torch.float32 if dtype is not torch.float64 else dtype).smallest_normal
        if dtype is torch.float16:
            tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        limit = scale * inner + ref.abs().double() * roundoff(dtype) * (1 + 2**-6) + tiny
        limits.append(torch.nan_to_num(limit, nan=0.0, posinf=math.inf))
    return limits


def _length(name: str, args: tuple[Any, ...], reference: Sequence[torch.Tensor]) -> int:
    """Number of terms of each sum: the shared dimension of matrix products, else elements of arguments per element of
    the result."""
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    if name in MATMUL:
        factors = tensors[1:] if name in {"addmm", "baddbmm", "addmv"} else tensors
        return int(factors[0].shape[-1])
    if not tensors or not reference or not reference[0].numel():
        return 1
    if name == "cumsum":
        return int(tensors[0].shape[int(args[1])]) if tensors[0].dim() else 1
    if name in SOFTMAX:
        return int(tensors[0].shape[int(args[1])])
    reduced = max(t.numel() for t in tensors) // reference[0].numel()
    return max(reduced, int(tensors[0].shape[-1]) if "norm" in name and tensors[0].dim() else 1)


def _scales(
    name: str,
    exact: Callable[..., Sequence[torch.Tensor]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    reference: Sequence[torch.Tensor],
) -> Sequence[torch.Tensor]:
    if name in MATMUL or name in SUMS:
        return exact(*map_floats(args, torch.abs), **map_floats(kwargs, torch.abs))
    if name in SOFTMAX:
        x, dim = args[0], int(args[1])
        distance = (x.amax(dim, keepdim=True) - x).nan_to_num(nan=0.0, posinf=0.0)
        return [reference[0].abs() * (distance + 4)]
    moved = [torch.zeros_like(ref, dtype=torch.float64) for ref in reference]
    for seed in (1, 2, 3):
        generators: dict[torch.device, torch.Generator] = {}

        def move(
            x: torch.Tensor, seed: int = seed, generators: dict[torch.device, torch.Generator] = generators
        ) -> Any:
            if not x.is_floating_point():
                return x
            g = generators.setdefault(x.device, torch.Generator(device=x.device).manual_seed(seed))
            sign = torch.randint(0, 2, x.shape, generator=g, device=x.device).mul_(2).sub_(1)
            return x * (1 + sign * PERTURBATION)

        for old, ref, new in zip(
            moved, reference, exact(*map_floats(args, move), **map_floats(kwargs, move)), strict=True
        ):
            torch.maximum(old, ((new - ref).abs() / PERTURBATION).nan_to_num(nan=0.0, posinf=0.0), out=old)
    return [change + ref.abs() for change, ref in zip(moved, reference, strict=True)]


def map_floats(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """Apply `change` to the floating tensors in nested lists, tuples and dicts."""
    if isinstance(value, torch.Tensor):
        return change(value) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {name: map_floats(item, change) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_floats(item, change) for item in value)
    return value
