"""Allocate guarded memory that exposes kernels that read or write out of bounds.

Every tensor lies between two guards. Guards and unwritten results contain 0xFF bytes, which are NaN in every floating
dtype and −1 in the integers: an unwritten result, or a read past the end, shows up as NaN; a write past the end
changes a guard.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["GUARD", "Arena", "guarded_allocations", "poison_allocator"]

GUARD = 1 << 16  # bytes before and after; a Triton block of 8192 float64 that overruns its edge stays within
POISON = 0xFF

# Saved before `guarded_allocations` replaces them.
_FULL, _EMPTY, _EMPTY_LIKE, _EMPTY_STRIDED = torch.full, torch.empty, torch.empty_like, torch.empty_strided


@dataclass
class Arena:
    """Guarded allocations on one device."""

    device: torch.device
    blocks: list[tuple[torch.Tensor, int]] = field(default_factory=list)
    """Memory with its guards, and the bytes in use between them."""
    busy: bool = False
    """True while the arena itself calls aten, which must not reach the operator under test."""

    @contextlib.contextmanager
    def own_calls(self) -> Iterator[None]:
        """Mark the aten calls in the block as the arena's."""
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
        """Descriptions of the writes outside blocks."""
        violations = []
        for block, used in self.blocks:
            before, after = block[:GUARD], block[GUARD + used :]
            for where, guard in (("before the start", before), ("past the end", after)):
                damaged = int((guard != POISON).sum())
                if damaged:
                    violations.append(f"{damaged} bytes written {where} of a block of {used} bytes")
        return violations


@dataclass(frozen=True)
class _Allocations:
    """torch's allocating functions on the arena's memory. Shapes and strides come from torch, on `meta`."""

    arena: Arena

    def empty(self, *size: Any, **options: Any) -> torch.Tensor:
        return self._guarded(_EMPTY(*size, **{**options, "device": "meta"}), options)

    def empty_like(self, like: torch.Tensor, **options: Any) -> torch.Tensor:
        options = {"device": like.device, **options}
        return self._guarded(_EMPTY_LIKE(like, **{**options, "device": "meta"}), options)

    def empty_strided(self, size: Any, stride: Any, **options: Any) -> torch.Tensor:
        return self._guarded(_EMPTY_STRIDED(size, stride, **{**options, "device": "meta"}), options)

    def new_empty(self, like: torch.Tensor, *size: Any, **options: Any) -> torch.Tensor:
        return self.empty(*size, **{"dtype": like.dtype, "device": like.device, **options})

    def zeros(self, *size: Any, **options: Any) -> torch.Tensor:
        return self._zero(self.empty(*size, **options))

    def zeros_like(self, like: torch.Tensor, **options: Any) -> torch.Tensor:
        return self._zero(self.empty_like(like, **options))

    def new_zeros(self, like: torch.Tensor, *size: Any, **options: Any) -> torch.Tensor:
        return self._zero(self.new_empty(like, *size, **options))

    def _guarded(self, form: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        device = torch.device(options.get("device") or "cpu")
        if device.type != self.arena.device.type:
            return _EMPTY_STRIDED(form.shape, form.stride(), dtype=form.dtype, device=device)
        return self.arena.take(tuple(form.shape), form.stride(), form.dtype)

    def _zero(self, x: torch.Tensor) -> torch.Tensor:
        with self.arena.own_calls():
            return x.zero_()


@contextlib.contextmanager
def guarded_allocations(arena: Arena) -> Iterator[None]:
    """Within the block, guard what Python code allocates on the arena's device: `torch.empty`, `zeros_like`,
    `Tensor.new_empty` and so on, with which operators written in Python (all Triton operators) allocate results."""
    allocations = _Allocations(arena)
    functions = ("empty", "empty_like", "empty_strided", "zeros", "zeros_like")
    # Plain functions, since as class attributes they receive the tensor; a bound method would not.
    methods = {
        "new_empty": lambda like, *size, **options: allocations.new_empty(like, *size, **options),
        "new_zeros": lambda like, *size, **options: allocations.new_zeros(like, *size, **options),
    }
    replaced: list[tuple[Any, str, Any]] = [(torch, name, getattr(allocations, name)) for name in functions]
    replaced += [(torch.Tensor, name, function) for name, function in methods.items()]
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    for owner, name, value in replaced:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in originals:
            setattr(owner, name, value)


def poison_allocator(like: tuple[torch.Tensor, ...], device: torch.device) -> None:
    """Free blocks full of NaN, which a caching allocator reuses for the next requests of those sizes."""
    blocks = [
        _FULL((max(t.numel() * t.element_size(), 1),), POISON, dtype=torch.uint8, device=device) for t in like * 2
    ]
    del blocks
