"""The native kernels under FlagGems' operator names: what must pass its own bounds. Child processes import this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from flagkernels.operators.registry import native_kernel


def native(key: str) -> Callable[..., Any]:
    kernel = native_kernel(key, "CPU")
    assert kernel is not None, key

    def run(*args: Any, **kwargs: Any) -> Any:
        return kernel(torch._C._dispatch_keyset_full_after(torch._C.DispatchKey.AutogradCPU), *args, **kwargs)

    return run


KEYS = {
    "mm": "mm",
    "mean_dim": "mean.dim",
    "softmax": "_softmax",
    "silu": "silu",
    "rsqrt": "rsqrt",
    "pow_tensor_scalar": "pow.Tensor_Scalar",
    "sin": "sin",
    "cat": "cat",
    "embedding": "embedding",
    "topk": "topk",
    "argmax": "argmax",
    "arange": "arange",
    "cumsum": "cumsum",
    "index_put_": "index_put_",
    "index": "index.Tensor",
    "mm_out": "mm.out",
    "addmm_out": "addmm.out",
    "bmm_out": "bmm.out",
    "true_divide_": "div_.Tensor",
    "exponential_": "exponential_",
    "where_self_out": "where.self_out",
    "lt_scalar": "lt.Scalar",
}
OPERATORS = {operator: {key: native(key)} for operator, key in KEYS.items()}
