"""Operators of the tests: a product with FlagGems' tuner around its kernel, one of a single form, and a wrong one.

The stand-in chip computes nothing, so that each works out its result besides."""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl
from flag_gems.utils.libentry import libentry, libtuner

BLOCKS = [(m, n, k) for m in (16, 32, 64) for n in (32, 64) for k in (32, 64)]


calls: list[None] = []
DRIFTS = "CHIP_PRODUCT_DRIFTS"
"""Environment variable: from how many rows on the product is five percent too large."""


@libentry()
@libtuner(
    configs=[triton.Config({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k}, num_warps=4) for m, n, k in BLOCKS],
    key=["M", "N", "K"],
    strategy=["align32", "align32", "align32"],
    warmup=1,
    rep=1,
)
@triton.jit
def product_kernel(
    A, B, C, M, N, K, stride_am, stride_bk, stride_cm,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, K, BLOCK_K):
        inner = start + tl.arange(0, BLOCK_K)
        a = tl.load(A + rows[:, None] * stride_am + inner[None, :], mask=(rows < M)[:, None])
        b = tl.load(B + inner[:, None] * stride_bk + columns[None, :])
        total = tl.dot(a, b, total)
    tl.store(C + rows[:, None] * stride_cm + columns[None, :], total.to(C.dtype.element_ty), mask=(rows < M)[:, None])


@triton.jit
def neg_kernel(X, Y, N, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(Y + at, -tl.load(X + at, mask=at < N), mask=at < N)


def mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    (m, k), n = a.shape, b.shape[1]
    out = torch.bmm(a[None], b[None])[0]
    if m >= int(os.environ.get(DRIFTS, m + 1)):
        out = torch.mul(out, 1.05)
    product_kernel[(1, 1)](a, b, out, m, n, k, a.stride(0), b.stride(0), out.stride(0))
    return out


def mm_out(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """As compiled models call it."""
    (m, k), n = a.shape, b.shape[1]
    out.copy_(torch.bmm(a[None], b[None])[0])
    product_kernel[(1, 1)](a, b, out, m, n, k, a.stride(0), b.stride(0), out.stride(0))
    return out


def inner_once(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Fails from its second call on, as an operator does that cannot stand real values."""
    if calls:
        raise RuntimeError("no more products")
    calls.append(None)
    return mm(a, b)


def neg(x: torch.Tensor) -> torch.Tensor:
    out = torch.mul(x, -1)
    neg_kernel[(1,)](x, out, x.numel(), BLOCK=128)
    return out


def silu(x: torch.Tensor) -> torch.Tensor:
    """Five percent too large."""
    return torch.mul(torch.mul(x, torch.sigmoid(x)), 1.05)
