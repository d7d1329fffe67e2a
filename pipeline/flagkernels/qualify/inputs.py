"""Make the arguments of a case: values of its regime, in guarded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from flagkernels.operators.calls import OUT, Args, Call, Kwargs, TensorSpec, Token, base_name, torch_dtype
from flagkernels.qualify.cases import Case
from flagkernels.qualify.guards import Arena

__all__ = ["Arena", "make"]


def make(case: Case, arena: Arena, seed: int) -> tuple[Args, Kwargs]:
    """The args and kwargs of a case, determined by the seed. Memory for a result (`out`) is filled with NaN, so that
    elements left unwritten show."""
    generator = torch.Generator(device=arena.device).manual_seed(seed)
    maker = _Maker(case, arena, generator)
    return (
        tuple(maker.value(v, index) for index, v in enumerate(case.call.args)),
        {name: maker.unwritten(v) if name == OUT else maker.value(v, -1) for name, v in case.call.kwargs},
    )


@dataclass
class _Maker:
    """Makes the argument values of one case."""

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

    def unwritten(self, spec: TensorSpec) -> torch.Tensor:
        return self.arena.take(spec.shape, spec.stride, torch_dtype(spec.dtype))

    def tensor(self, spec: TensorSpec, position: int) -> torch.Tensor:
        out = self.arena.take(spec.shape, spec.stride, torch_dtype(spec.dtype))
        flat = torch.full((0,), 0.0, device=self.arena.device) if not spec.numel else self.values(spec, position)
        # Write an expanded tensor only once, with the values of its first row.
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
        """Integers that are valid indices: below the first size for embeddings, else below the smallest size of the
        other tensors."""
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
            return torch.randperm(high, generator=self.generator, device=self.arena.device)[: spec.numel].view(
                spec.shape
            )
        return torch.randint(0, high, spec.shape, generator=self.generator, device=self.arena.device)

    def offsets(self, spec: TensorSpec, call: Call) -> torch.Tensor:
        """Ends of the groups of a grouped matrix product: non-decreasing, the last is the number of rows."""
        rows = call.tensors[0].shape[0]
        cuts = torch.randint(0, rows + 1, spec.shape, generator=self.generator, device=self.arena.device)
        cuts = cuts.sort().values
        cuts[-1] = rows
        return cuts
