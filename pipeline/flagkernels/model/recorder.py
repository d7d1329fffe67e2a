"""Record the aten calls of a model on the meta device, under FlagGems' registration keys."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from flagkernels.operators.calls import Call, overload_of, spec_of
from flagkernels.operators.catalogue import Catalogue
from flagkernels.operators.inductor import left_to_aten, running

__all__ = ["Recorder", "recording", "unrecorded"]


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call,unused-ignore]
    """Count the calls for which the catalogue has an operator. While `compiled()` is true, count only the calls that
    remain after an engine compiles this part of the model."""

    def __init__(self, known: Catalogue, compiled: Callable[[], bool] = lambda: False) -> None:
        super().__init__()  # type: ignore[no-untyped-call,unused-ignore]
        self.known, self.compiled = known, compiled
        self.calls: Counter[Call] = Counter()
        self.native_only: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        overload = overload_of(func) if func.namespace == "aten" else func._schema.name
        if self.known.operator(overload) is not None and not self.compiled():
            self._count(overload, args, kwargs)
            return func(*args, **kwargs)
        if func is torch.ops.aten.scaled_dot_product_attention.default:
            self.native_only[overload] += 1
            query, _, value = args[:3]
            return query.new_zeros((*query.shape[:-1], value.shape[-1]))
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if not self.compiled():
            self.native_only[overload] += 1
        elif left := left_to_aten(func, args, result):
            self._count(left[0], args, {**kwargs, **left[1]})
        return result

    def _count(self, overload: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.known.operator(overload) is None:
            self.native_only[overload] += 1
            return
        given = tuple((name, spec) for name, arg in kwargs.items() if (spec := spec_of(arg)) is not None)
        self.calls[Call(overload, tuple(map(spec_of, args)), given)] += 1


@contextlib.contextmanager
def recording(known: Catalogue, compiled: nn.Module | None = None) -> Iterator[Recorder]:
    """Record calls in the `with` block. `compiled`: the part of the model that the engine compiles, None if none."""
    with contextlib.ExitStack() as stack:
        inside = (lambda: False) if compiled is None else stack.enter_context(running(compiled))
        yield stack.enter_context(Recorder(known, inside))


@contextlib.contextmanager
def unrecorded() -> Iterator[None]:
    """Apply the same decompositions without counting, so that attention over a long prefix stays one cheap call."""
    with Recorder(Catalogue("", {})):
        yield
