"""The cases that an operator is qualified with: the model's calls, and similar ones that expose faulty kernels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flagkernels.model.trace import Trace
from flagkernels.operators.calls import OUT, Call, TensorSpec, base_name, torch_dtype
from flagkernels.qualify.tolerance import EXACT, MATMUL

__all__ = ["CONTEXT", "REGIMES", "Case", "cases_for", "digest", "memory_for"]

# Distributions of values (see inputs.py). Every shape is run with `spread`, the smallest real one with all.
REGIMES = ("spread", "large", "subnormal", "zeros", "infinite")
LARGEST = 4 << 30  # bytes of arguments; larger calls of the model are skipped
CONTEXT = 2 << 30  # bytes of chip memory that a process uses before its first tensor


@dataclass(frozen=True, kw_only=True)
class Case:
    """A call and the distribution of its values."""

    call: Call
    kind: str
    """real, odd, one, edge or strided."""
    regime: str
    """One of REGIMES."""

    def __str__(self) -> str:
        shapes = " ".join("×".join(map(str, t.shape)) or "0-d" for t in self.call.tensors)
        return f"{self.call.overload} [{shapes}] {self.kind}/{self.regime}"

    def to_json(self) -> dict[str, Any]:
        return {"call": self.call.to_json(), "kind": self.kind, "regime": self.regime}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Case:
        return cls(call=Call.from_json(data["call"]), kind=data["kind"], regime=data["regime"])


def memory_for(call: Call) -> int:
    """Bytes of chip memory needed to judge a call: float64 is four times a 16-bit argument; matrix products and copies
    hold two such sets, five if the result is an argument, bounds by perturbation about twelve."""
    if base_name(call.overload) not in EXACT | MATMUL:
        return call.nbytes * 48
    return call.nbytes * (30 if OUT in call.overload.split(".") else 12)


def cases_for(found: Trace, operator: str, *, real: int = 8) -> tuple[Case, ...]:
    """At most `real` calls of each overload, spread over their sizes including both ends, then off-grid ones."""
    by_overload: dict[str, list[Call]] = {}
    for traced in found.calls:
        if traced.operator == operator and traced.call.nbytes <= LARGEST:
            by_overload.setdefault(traced.call.overload, []).append(traced.call)
    cases: list[Case] = []
    for calls in by_overload.values():
        chosen = _spread(sorted(_one_per_class(found, operator, calls), key=lambda call: call.nbytes), real)
        cases += [Case(call=call, kind="real", regime="spread") for call in chosen]
        small = chosen[0]
        if any(torch_dtype(t.dtype).is_floating_point for t in small.tensors):
            cases += [Case(call=small, kind="real", regime=regime) for regime in REGIMES[1:]]
        middle = chosen[len(chosen) // 3]
        for kind, change in OFF_GRID.items():
            moved = change(middle)
            if moved not in (middle, *(case.call for case in cases if case.kind != "real")):
                cases.append(Case(call=moved, kind=kind, regime="spread"))
    return tuple(cases)


def _one_per_class(found: Trace, operator: str, calls: Iterable[Call]) -> list[Call]:
    wanted = set(calls)
    return [
        next(t.call for t in members if t.call in wanted)
        for members in found.classes(operator).values()
        if any(t.call in wanted for t in members)
    ]


def _spread(calls: Sequence[Call], count: int) -> list[Call]:
    if len(calls) <= count:
        return list(calls)
    step = (len(calls) - 1) / (count - 1) if count > 1 else 0
    return [calls[round(index * step)] for index in range(count)]


def _resize(call: Call, change: Callable[[int], int]) -> Call:
    """Map sizes in all arguments consistently, so that equal sizes stay equal; strides keep their order.

    Sizes of one are kept, as they broadcast. Integers in lists and the ends of `arange` are sizes too."""
    sizes = {size for spec in call.tensors for size in spec.shape if size > 1}

    def leaf(value: Any) -> Any:
        if isinstance(value, TensorSpec):
            shape = tuple(change(n) if n > 1 else n for n in value.shape)
            return TensorSpec(shape, _strides_like(value, shape), value.dtype)
        if isinstance(value, int) and not isinstance(value, bool) and value in sizes and value > 8:
            return change(value)
        if base_name(call.overload) == "arange" and isinstance(value, int) and value > 1:
            return change(value)
        return value

    return call.map(leaf)


def _strides_like(spec: TensorSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Dense strides in the memory order of `spec`; an expanded dimension (stride 0) stays expanded."""
    order = sorted(range(len(shape)), key=lambda d: (spec.stride[d], -d))
    strides, step = [0] * len(shape), 1
    for d in order:
        if spec.stride[d] == 0 and spec.shape[d] > 1:
            continue
        strides[d] = step
        step *= max(shape[d], 1)
    return tuple(strides)


def _odd(size: int) -> int:
    return max(size * 3 // 4 | 1, 3)


def _cap(size: int) -> int:
    """Limit a size: off-grid cases test indexing, which does not need gigabytes."""
    return min(size, 4096)


def _strided(call: Call) -> Call:
    """Give every tensor of two or more dimensions gaps: the last stride is two, and rows have a tail. Memory for a
    result stays dense, as compiled code passes it."""

    def leaf(value: Any) -> Any:
        if not isinstance(value, TensorSpec) or len(value.shape) < 2:
            return value
        shape = tuple(_cap(n) for n in value.shape)
        row = 2 * shape[-1] + 8
        strides = [2]
        for size in reversed(shape[1:]):
            strides.append(row if len(strides) == 1 else strides[-1] * size)
        return TensorSpec(shape, tuple(reversed(strides)), value.dtype)

    moved = _resize(call, _cap)
    return replace(moved.map(leaf), kwargs=tuple((n, v if n == OUT else leaf(v)) for n, v in moved.kwargs))


OFF_GRID: dict[str, Callable[[Call], Call]] = {
    "odd": lambda call: _resize(call, lambda n: _odd(_cap(n))),
    "one": lambda call: _resize(call, lambda _: 1),
    "edge": lambda call: _resize(call, lambda n: _cap(n) + 1),
    "strided": _strided,
}


def digest(cases: Sequence[Case]) -> str:
    """Hexadecimal sha256 of the cases."""
    return hashlib.sha256(json.dumps([case.to_json() for case in cases], sort_keys=True).encode()).hexdigest()
