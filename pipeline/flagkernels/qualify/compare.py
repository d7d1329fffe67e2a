"""Compare results with float64 references: element by element against the bound, and overall by regression."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from flagkernels.operators.calls import base_name
from flagkernels.qualify import tolerance
from flagkernels.qualify.cases import Case

__all__ = ["ENOUGH", "Comparer", "Comparison", "equal", "form"]

ENOUGH = 1000  # minimum number of elements for the regression slope


@dataclass(frozen=True)
class Comparison:
    """How far one result is from its reference."""

    error: float
    """Largest |result − exact| over its bound."""
    relative: float | None
    """‖result − exact‖ / ‖exact‖; None if not meaningful."""
    gain: float | None
    """Slope of the regression of result on reference, minus one; None for too few elements."""
    reason: str
    """Why the result is wrong; empty if it is correct."""


@dataclass(frozen=True)
class Comparer:
    """Compares results with the nearest of several references, element by element."""

    case: Case
    args: tuple[Any, ...]
    exact: list[list[Any]]
    """Alternative float64 references, each with all results."""
    limits: list[torch.Tensor]
    """Allowed absolute error of each element, for each tensor result."""

    def __call__(self, results: Sequence[Any], native: Sequence[Any]) -> Comparison:
        name = base_name(self.case.call.overload)
        errors: list[Comparison] = []
        number = 0
        for index, (got, plain) in enumerate(zip(results, native, strict=True)):
            reference = [alternative[index] for alternative in self.exact]
            if not isinstance(plain, torch.Tensor):
                errors.append(Comparison(0.0, None, None, "" if got == plain else f"result {got}, native {plain}"))
                continue
            limit = self.limits[number]
            number += 1
            if not isinstance(got, torch.Tensor) or got.shape != plain.shape or got.dtype != plain.dtype:
                errors.append(Comparison(math.inf, None, None, f"result {form(got)}, native {form(plain)}"))
            elif name in tolerance.INDICES and not plain.dtype.is_floating_point:
                errors.append(self._indices(got, plain))
            else:
                errors.append(_compare(got, plain, reference, limit, self.case))
        return max(errors, key=lambda e: (bool(e.reason), e.error), default=Comparison(0.0, None, None, ""))

    def _indices(self, got: torch.Tensor, plain: torch.Tensor) -> Comparison:
        """Compare the values at the indices, since ties may be broken in any order."""
        source = self.args[0]
        named = [a for a in self.args[1:] if isinstance(a, int) and not isinstance(a, bool)]
        dim = {"topk": named[1] if len(named) > 1 else -1, "sort": named[0] if named else -1}.get(
            base_name(self.case.call.overload), named[0] if named else None
        )
        flat = source.flatten() if dim is None or not source.dim() else source
        axis = 0 if flat.dim() <= 1 else int(dim or 0)
        if not source.dim() or plain.numel() == 0:
            return Comparison(0.0, None, None, "" if equal(got, plain) else "index of a scalar")
        if bool((got < 0).any()) or bool((got >= flat.shape[axis]).any()):
            return Comparison(math.inf, None, None, "an index is out of range")

        def picked(index: torch.Tensor) -> torch.Tensor:
            if index.dim() < flat.dim():
                index = index.unsqueeze(axis)
            chosen: torch.Tensor = flat.gather(axis, index.reshape(-1) if flat.dim() == 1 else index)
            return chosen

        same = equal(picked(got), picked(plain))
        return Comparison(0.0 if same else math.inf, None, None, "" if same else "an index points at another value")


def _compare(
    got: torch.Tensor, plain: torch.Tensor, references: Sequence[torch.Tensor], limit: torch.Tensor, case: Case
) -> Comparison:
    is_native = got is plain
    where = limit.device
    got, plain = got.to(where), plain.to(where)
    if not got.dtype.is_floating_point:
        alike = torch.equal(got, references[0].to(got.dtype))
        return Comparison(0.0 if alike else math.inf, None, None, "" if alike else "integers differ")
    value = got.double()
    ratio = torch.full_like(value, math.inf)
    for reference in references:
        # Round the reference to the dtype: overflow to infinity is correct behaviour.
        target = reference.double().to(got.dtype).double() if reference.is_floating_point() else reference.double()
        same = (value == target) | (value.isnan() & target.isnan())
        distance = torch.where(same, 0.0, (value - reference.double()).abs())
        ratio = torch.minimum(ratio, torch.where(distance == 0, 0.0, distance / limit).nan_to_num(nan=math.inf))
    # The operator need not be better than the vendor's kernel: elements at which that one overflows too or is at least
    # as far off are excused (both may overflow in intermediate results).
    exact = references[0].double()
    if not is_native:
        excused = (~plain.isfinite() & ~got.isfinite()) | (exact.abs() > torch.finfo(got.dtype).max / 2)
        excused |= (value - exact).abs() <= (plain.double() - exact).abs()
        ratio = torch.where(excused, 0.0, ratio)
    error = float(ratio.max()) if ratio.numel() else 0.0
    gain, relative = _regression(value, references[0].double(), case)
    if error > 1:
        return Comparison(error, relative, gain, _describe(ratio, value, references[0]))
    if gain is not None and abs(gain) > tolerance.gain_limit(got.dtype):
        return Comparison(error, relative, gain, f"systematically {gain:+.2%} off")
    return Comparison(error, relative, gain, "")


def _regression(value: torch.Tensor, reference: torch.Tensor, case: Case) -> tuple[float | None, float | None]:
    if case.regime != "spread" or value.numel() == 0:
        return None, None
    energy = float((reference * reference).sum())
    if not math.isfinite(energy) or energy == 0:
        return None, None
    relative = math.sqrt(float(((value - reference) ** 2).sum()) / energy)
    effective = energy**2 / max(float((reference**4).sum()), 1e-300)
    gain = float((value * reference).sum()) / energy - 1 if effective >= ENOUGH else None
    return (gain if gain is None or math.isfinite(gain) else None), (relative if math.isfinite(relative) else None)


def _describe(ratio: torch.Tensor, value: torch.Tensor, reference: torch.Tensor) -> str:
    bad = ratio > 1
    first = [int(i) for i in bad.nonzero()[0]] if value.dim() else []
    index = tuple(first)
    lost = int((value.isnan() & ~reference.isnan()).sum())
    text = f"{int(bad.sum())} of {value.numel()} elements out of bound, first at {first}: "
    text += f"{float(value[index]):.6g} for {float(reference[index]):.6g}"
    return text + (f"; {lost} are NaN" if lost else "")


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """True if shapes, dtypes and values are equal; NaN equals NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool((a == b).logical_or_((a != a) & (b != b)).all())


def form(value: Any) -> str:
    """dtype and shape of a tensor, `repr` of anything else."""
    return (
        f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        if isinstance(value, torch.Tensor)
        else repr(value)
    )
