"""Arguments for a case, in memory that tells on a kernel that reads or writes where it must not.

Every tensor lies between two guards. Guards and unwritten results hold 0xFF bytes, which are NaN in every floating
dtype and −1 in the integers: a result that was never written, and a read past the end, show up as NaN; a write past
the end changes a guard.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from flagkernels.calls import Call, TensorSpec, Token, base_name, torch_dtype
from flagkernels.cases import Case

__all__ = ["GUARD", "Arena", "guarded_allocations", "make"]

GUARD = 1 << 16  # bytes before and after; a block of 8192 float64 that runs over its edge stays within
POISON = 0xFF


@dataclass
class Arena:
    """Guarded allocations on one device."""

    device: torch.device
    blocks: list[tuple[torch.Tensor, int]] = field(default_factory=list)
    busy: bool = False  # the arena's own aten calls must not reach the operator under test

    @contextlib.contextmanager
    def own_calls(self) -> Iterator[None]:
        before, self.busy = self.busy, True
        try:
            yield
        finally:
            self.busy = before

    def take(self, shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised, poisoned tensor with guards around its storage."""
        extent = 0 if math.prod(shape) == 0 else 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        inner = -(-extent * dtype.itemsize // 256) * 256
        with self.own_calls():
            block = _FULL((inner + 2 * GUARD,), POISON, dtype=torch.uint8, device=self.device)
            self.blocks.append((block, extent * dtype.itemsize))
            return block[GUARD : GUARD + inner].view(dtype)[:extent].as_strided(shape, stride)

    def violations(self) -> list[str]:
        """What was written outside, for each block that was damaged."""
        found = []
        for block, used in self.blocks:
            before, after = block[:GUARD], block[GUARD + used :]
            for place, guard in (("before the start", before), ("past the end", after)):
                damaged = int((guard != POISON).sum())
                if damaged:
                    found.append(f"{damaged} bytes written {place} of a block of {used} bytes")
        return found


_FULL, _EMPTY, _EMPTY_LIKE, _EMPTY_STRIDED = torch.full, torch.empty, torch.empty_like, torch.empty_strided


@contextlib.contextmanager
def guarded_allocations(arena: Arena) -> Iterator[None]:
    """While it lasts, `torch.empty`, `empty_like`, `empty_strided`, `zeros` … and `Tensor.new_empty` of Python code give
    guarded memory. Operators written in Python (all of Triton's are) allocate their results with these.
    """

    def empty(*size: Any, **options: Any) -> torch.Tensor:
        return _guard(_EMPTY(*size, **{**options, "device": "meta"}), options)

    def empty_like(like: torch.Tensor, **options: Any) -> torch.Tensor:
        options = {"device": like.device, **options}
        return _guard(_EMPTY_LIKE(like, **{**options, "device": "meta"}), options)

    def empty_strided(size: Any, stride: Any, **options: Any) -> torch.Tensor:
        return _guard(_EMPTY_STRIDED(size, stride, **{**options, "device": "meta"}), options)

    def new_empty(like: torch.Tensor, *size: Any, **options: Any) -> torch.Tensor:
        return empty(*size, **{"dtype": like.dtype, "device": like.device, **options})

    def _guard(shape: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        device = torch.device(options.get("device") or "cpu")
        if device.type != arena.device.type:
            return _EMPTY_STRIDED(shape.shape, shape.stride(), dtype=shape.dtype, device=device)
        return arena.take(tuple(shape.shape), shape.stride(), shape.dtype)

    def zeros(*size: Any, **options: Any) -> torch.Tensor:
        return _zero(empty(*size, **options))

    def zeros_like(like: torch.Tensor, **options: Any) -> torch.Tensor:
        return _zero(empty_like(like, **options))

    def new_zeros(like: torch.Tensor, *size: Any, **options: Any) -> torch.Tensor:
        return _zero(new_empty(like, *size, **options))

    def _zero(x: torch.Tensor) -> torch.Tensor:
        with arena.own_calls():
            return x.zero_()

    replaced: list[tuple[Any, str, Any]] = [
        (torch, "empty", empty),
        (torch, "empty_like", empty_like),
        (torch, "empty_strided", empty_strided),
        (torch, "zeros", zeros),
        (torch, "zeros_like", zeros_like),
        (torch.Tensor, "new_empty", new_empty),
        (torch.Tensor, "new_zeros", new_zeros),
    ]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    for owner, name, value in replaced:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)


def poison_allocator(like: tuple[torch.Tensor, ...], device: torch.device) -> None:
    """Leaves freed blocks full of NaN behind, which a caching allocator hands to the next request of that size."""
    blocks = [_FULL((max(t.numel() * t.element_size(), 1),), POISON, dtype=torch.uint8, device=device) for t in like * 2]
    del blocks


def make(case: Case, arena: Arena, seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a case; the same for the same seed."""
    generator = torch.Generator(device=arena.device).manual_seed(seed)
    maker = _Maker(case, arena, generator)
    return (
        tuple(maker.value(v, index) for index, v in enumerate(case.call.args)),
        {name: maker.value(v, -1) for name, v in case.call.kwargs},
    )


@dataclass
class _Maker:
    case: Case
    arena: Arena
    generator: torch.Generator

    def value(self, value: Any, position: int) -> Any:
        match value:
            case TensorSpec():
                return self.tensor(value, position)
            case Token(kind="device"):
                return self.arena.device
            case Token(name=name):
                return getattr(torch, name)
            case tuple():
                return [self.value(item, position) for item in value]
        return value

    def tensor(self, spec: TensorSpec, position: int) -> torch.Tensor:
        out = self.arena.take(spec.shape, spec.stride, torch_dtype(spec.dtype))
        flat = _FULL((0,), 0.0, device=self.arena.device) if not spec.numel else self.values(spec, position)
        # An expanded tensor takes the values of its first row: every element is written once, in order.
        if spec.numel:
            index = tuple(slice(0, 1) if step == 0 else slice(None) for step in spec.stride)
            out[index].copy_(flat[index])
        return out

    def values(self, spec: TensorSpec, position: int) -> torch.Tensor:
        dtype, device, g = torch_dtype(spec.dtype), self.arena.device, self.generator
        if dtype is torch.bool:
            return torch.rand(spec.shape, generator=g, device=device) < 0.5
        if not dtype.is_floating_point:
            return self.integers(spec, position)
        x = torch.randn(spec.shape, generator=g, device=device)
        match self.case.regime:
            case "spread":
                # Activations of transformers: a normal body, and one in a thousand values fifty times as large
                # (Dettmers et al., LLM.int8(), 2022, §4: outlier features).
                outlier = torch.rand(spec.shape, generator=g, device=device) < 1e-3
                x = torch.where(outlier, x * 50, x)
            case "large":
                x = x * math.sqrt(torch.finfo(dtype).max) / 64
            case "subnormal":
                x = x * torch.finfo(dtype).smallest_normal / 4
            case "zeros":
                x = torch.where(x < 0, -torch.zeros_like(x), torch.zeros_like(x))
            case "infinite":
                pick = torch.rand(spec.shape, generator=g, device=device)
                x = torch.where(pick < 0.02, math.inf, torch.where(pick > 0.98, -math.inf, x))
        return x.to(dtype)

    def integers(self, spec: TensorSpec, position: int) -> torch.Tensor:
        """Indices stay inside what they index: the first size for embeddings, else the smallest size of the others."""
        call = self.case.call
        if base_name(call.overload) == "_grouped_mm":
            return self.offsets(spec, call)
        others = [t for t in call.tensors if t is not spec and t.shape]
        high = min((size for t in others for size in t.shape), default=128)
        if base_name(call.overload) == "embedding" and position == 1:
            high = call.tensors[0].shape[0]
        elif base_name(call.overload) in {"index", "index_put_", "index_select", "gather", "scatter"} and position != 0:
            high = min(call.tensors[0].shape, default=1)
        high = max(min(high, torch.iinfo(torch_dtype(spec.dtype)).max), 1)
        if base_name(call.overload) == "index_put_" and spec.numel <= high:  # duplicates have no defined order
            return torch.randperm(high, generator=self.generator, device=self.arena.device)[: spec.numel].view(spec.shape)
        return torch.randint(0, high, spec.shape, generator=self.generator, device=self.arena.device)

    def offsets(self, spec: TensorSpec, call: Call) -> torch.Tensor:
        """Ends of the groups of a grouped matrix product: increasing, the last one is the number of rows."""
        rows = call.tensors[0].shape[0]
        cuts = torch.randint(0, rows + 1, spec.shape, generator=self.generator, device=self.arena.device)
        cuts = cuts.sort().values
        cuts[-1] = rows
        return cuts
