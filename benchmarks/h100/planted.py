"""Planted faults that qualification must find on a real chip: Triton kernels for `silu`, each with one fault."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def silu_kernel(x, out, n, stop, factor, BLOCK: tl.constexpr):  # noqa: N803
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(out + at, value / (1.0 + tl.exp(-value)) * factor, mask=at < stop)


@triton.jit
def spin_kernel(flag):
    while tl.load(flag, volatile=True) == 0:
        pass


@triton.jit
def wild_kernel(x, far):
    tl.store(x + far, 1.0)


def silu(x: torch.Tensor, *, factor: float = 1.0, past: int = 0, short: bool = False) -> torch.Tensor:
    flat = x.contiguous()
    out = torch.empty_like(flat)
    n = flat.numel()
    whole = n // BLOCK * BLOCK if n % BLOCK else n
    stop = whole if short else n + past
    silu_kernel[(triton.cdiv(n + past, BLOCK),)](flat, out, n, stop, factor, BLOCK=BLOCK)
    return out


def one_percent(x: torch.Tensor) -> torch.Tensor:
    return silu(x, factor=1.01)


def nan_past_edge(x: torch.Tensor) -> torch.Tensor:
    """Leave the last, incomplete block unwritten."""
    return silu(x, short=True)


def out_of_bounds(x: torch.Tensor) -> torch.Tensor:
    """Write 32 elements past the end, by a wrong mask."""
    return silu(x, past=32)


def never_returns(x: torch.Tensor) -> torch.Tensor:
    flag = torch.zeros(1, dtype=torch.int32, device=x.device)
    spin_kernel[(1,)](flag)
    return silu(x)


class ThirdTime:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return silu(x, factor=1.05 if self.count % 3 == 0 else 1.0)


def illegal_access(x: torch.Tensor) -> torch.Tensor:
    out = silu(x)
    wild_kernel[(1,)](out, 1 << 40)
    return out


def greedy(x: torch.Tensor) -> torch.Tensor:
    hoard = torch.empty(200 << 30, dtype=torch.uint8, device=x.device)
    return hoard[: x.numel()].view(x.shape)


def plant(function: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, dict[str, Callable[..., torch.Tensor]]]:
    return {"silu": {"silu": function}}


RIGHT = plant(silu)
ONE_PERCENT = plant(one_percent)
NAN_PAST_EDGE = plant(nan_past_edge)
OUT_OF_BOUNDS = plant(out_of_bounds)
NEVER_RETURNS = plant(never_returns)
THIRD_TIME = plant(ThirdTime())
ILLEGAL_ACCESS = plant(illegal_access)
GREEDY = plant(greedy)
EXPECTED = {
    "RIGHT": "correct",
    "ONE_PERCENT": "wrong",
    "NAN_PAST_EDGE": "wrong",
    "OUT_OF_BOUNDS": "wrong",
    "NEVER_RETURNS": "hang",
    "THIRD_TIME": "nondeterministic",
    "ILLEGAL_ACCESS": "crash",
    "GREEDY": "out-of-memory",
}
