"""Measure the chip's limits, and compute a call's minimum time under them.

The roofline model (Williams, Waterman and Patterson, Roofline, CACM 52(4), 2009): the larger of bytes over copy
bandwidth and operations over matrix rate."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from typing import Any

import torch

from flagkernels.measure.timing import Clock
from flagkernels.operators.calls import Call, base_name, torch_dtype

__all__ = ["Ceilings", "floor_seconds", "measure", "work"]

LOOK_UPS = frozenset(["embedding", "gather", "index", "index_select"])


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """The measured limits of a chip."""

    bandwidth: float
    """Bytes read and written per second by a large copy."""
    rate: float
    """Operations per second of a large matrix product on random data."""
    dtype: str
    """Of the matrix product."""
    device: str
    """Device name."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    device: torch.device, dtype: torch.dtype = torch.bfloat16, *, bytes_: int = 2 << 30, size: int = 8192
) -> Ceilings:
    """Time a copy of `bytes_` and a product of two size × size matrices, each the median of 11 runs after warm-up.

    On the CPU both are small, as its figures are used in tests only."""
    if device.type == "cpu":
        bytes_, size = 64 << 20, 512
    clock = Clock(device)
    copy = _copy_seconds(clock, bytes_)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product = statistics.median(clock.times(lambda: torch.mm(left, right), 11))
    return Ceilings(
        bandwidth=2 * bytes_ / copy,
        rate=2 * size**3 / product,
        dtype=str(dtype).removeprefix("torch."),
        device=clock.name,
    )


def _copy_seconds(clock: Clock, bytes_: int) -> float:
    source = torch.empty(bytes_, dtype=torch.uint8, device=clock.device).random_()
    target = torch.empty_like(source)
    return statistics.median(clock.times(lambda: target.copy_(source), 11))


def work(call: Call, results: tuple[torch.Tensor, ...]) -> tuple[int, int]:
    """Minimum (bytes, operations) of a call: each input read once, each result written once, and the multiply-adds of
    matrix products. Pointwise arithmetic is not counted, as it is never the limit."""
    name = base_name(call.overload)
    read = sum(_distinct(spec.shape, spec.stride) * torch_dtype(spec.dtype).itemsize for spec in call.read)
    written = sum(r.numel() * r.element_size() for r in results)
    shapes = [spec.shape for spec in call.read]
    if name in LOOK_UPS:  # only the elements that are looked up
        table, *indices = call.read
        read = (
            sum(spec.nbytes for spec in indices) + sum(r.numel() for r in results) * torch_dtype(table.dtype).itemsize
        )
    if name in {"addmm", "baddbmm"}:
        shapes = shapes[1:]
    operations = 0
    if name in {"mm", "bmm", "addmm", "baddbmm"}:
        operations = 2 * math.prod(shapes[0]) * shapes[1][-1]
    elif name == "_grouped_mm":
        operations = 2 * shapes[0][0] * shapes[0][1] * shapes[1][-1]
    return read + written, operations


def _distinct(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    return math.prod(n for n, s in zip(shape, stride, strict=True) if s != 0)


def floor_seconds(ceilings: Ceilings, bytes_: int, operations: int) -> float:
    """Minimum seconds under the roofline."""
    return max(bytes_ / ceilings.bandwidth, operations / ceilings.rate)
