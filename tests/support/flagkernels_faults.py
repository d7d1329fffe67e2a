"""Planted operators on CPU tensors: real ones, each wrong in its own way. Child processes import this module."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from typing import Any

import torch


def fresh(x: torch.Tensor, y: Any) -> torch.Tensor:
    dtype = torch.result_type(x, y)
    shape = torch.broadcast_tensors(x, y)[0].shape if isinstance(y, torch.Tensor) else x.shape
    return torch.empty(shape, dtype=dtype, device=x.device)


def right(x: torch.Tensor, y: Any) -> torch.Tensor:
    return _sum(x, y)


def _sum(x: torch.Tensor, y: Any, factor: float = 1.0) -> torch.Tensor:
    """x + y through float64 and another operator, so that aten::add itself is free to be replaced."""
    out = fresh(x, y)
    wide = y.double() if isinstance(y, torch.Tensor) else float(y)
    out.copy_(torch.sub(x.double(), torch.neg(wide) if isinstance(wide, torch.Tensor) else -wide).mul_(factor))
    return out


def one_percent(x: torch.Tensor, y: Any) -> torch.Tensor:
    return _sum(x, y, 1.01)


def nan_past_edge(x: torch.Tensor, y: Any) -> torch.Tensor:
    """Leaves everything after the last whole block of 64 unwritten."""
    whole, out = _sum(x, y), fresh(x, y)
    edge = out.numel() // 64 * 64 if out.numel() % 64 else out.numel()
    out.view(-1)[:edge].copy_(whole.view(-1)[:edge])
    return out


def out_of_bounds(x: torch.Tensor, y: Any) -> torch.Tensor:
    out = _sum(x, y)
    ctypes.memset(out.data_ptr() + out.numel() * out.element_size(), 0, 16)
    return out


def never_returns(x: torch.Tensor, y: Any) -> torch.Tensor:
    while True:
        time.sleep(0.05)


class ThirdTime:
    count = 0

    def __call__(self, x: torch.Tensor, y: Any) -> torch.Tensor:
        ThirdTime.count += 1
        return _sum(x, y, 1.5 if ThirdTime.count % 3 == 0 else 1.0)


def aborts(x: torch.Tensor, y: Any) -> torch.Tensor:
    os.abort()


def greedy(x: torch.Tensor, y: Any) -> torch.Tensor:
    hoard = torch.empty(64 << 30, dtype=torch.uint8)
    return hoard[: x.numel()].view(x.shape)


def refuses(x: torch.Tensor, y: Any) -> torch.Tensor:
    raise NotImplementedError("no kernel for this dtype")


def writes_input(x: torch.Tensor, y: Any) -> torch.Tensor:
    out = _sum(x, y)
    x.zero_()
    return out


def half_written(x: torch.Tensor, y: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """A product of which the second half of the rows is never written."""
    rows = out.shape[0] // 2
    out[:rows].copy_(torch.bmm(x[None, :rows], y[None])[0])
    return out


def planted(function: Callable[..., torch.Tensor]) -> dict[str, dict[str, Callable[..., torch.Tensor]]]:
    def add(x: torch.Tensor, y: Any, *, alpha: float = 1) -> torch.Tensor:
        assert alpha == 1
        return function(x, y)

    return {"add": {"add.Tensor": add}}


RIGHT = planted(right)
ONE_PERCENT = planted(one_percent)
NAN_PAST_EDGE = planted(nan_past_edge)
OUT_OF_BOUNDS = planted(out_of_bounds)
NEVER_RETURNS = planted(never_returns)
THIRD_TIME = planted(ThirdTime())
ABORTS = planted(aborts)
GREEDY = planted(greedy)
REFUSES = planted(refuses)
WRITES_INPUT = planted(writes_input)
HALF_WRITTEN = {"mm_out": {"mm.out": half_written}}
ALIASES = {"to_copy": {"_to_copy": lambda x, **_: x}}
ADD_RIGHT_MUL_HANGS = {"add": RIGHT["add"], "mul": {"mul.Tensor": never_returns}}
