"""Operators in place of the native kernels, by operator and shape class, for the length of a `with` block.

Under a CUDA graph or torch.compile the choice is made once, while capturing, and costs nothing afterwards. In eager
mode a call costs a look-up by shapes, strides and dtypes: decode repeats the same few."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from flagkernels.bundle import Operators
from flagkernels.calls import Call, shape_class, spec_of
from flagkernels.errors import ChipFault
from flagkernels.operators import Implementation, Source, dispatch_key, native_kernel, quiet_override

__all__ = ["installed", "shape_rule"]

REMEMBERED = 4096  # calls whose choice is kept; a served model has hundreds


def shape_rule(key: str, native: frozenset[str], static: frozenset[int]) -> Callable[[Any, Any], bool]:
    """Whether a call's shape class stays with the native kernel.

    `native` lists such classes. With `*` in it all classes stay, but for those that it lists as `!CLASS`: so a class
    that nobody measured stays native."""
    every = "*" in native
    excepted = {name[1:] for name in native if name.startswith("!")}
    known: dict[Any, bool] = {}

    def falls(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        values = (*args, *kwargs.values()) if kwargs else args
        name = tuple((v.shape, v.stride(), v.dtype) if isinstance(v, torch.Tensor) else _shapes(v) for v in values)
        found = known.get(name)
        if found is None:
            if len(known) >= REMEMBERED:
                known.clear()
            call = Call(key, tuple(map(spec_of, args)), tuple((n, spec_of(v)) for n, v in kwargs.items()))
            place = shape_class(call, static)
            found = known[name] = place not in excepted if every else place in native
        return found

    return falls


def _shapes(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple((v.shape, v.stride(), v.dtype) if isinstance(v, torch.Tensor) else None for v in value)
    return type(value)


@contextlib.contextmanager
def installed(source: Source, chosen: Operators, device: torch.device) -> Iterator[dict[str, int]]:
    """Gives how often each operator ran. Raises ChipFault where an operator must fall through and torch cannot."""
    calls = dict.fromkeys(chosen.include, 0)
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call,unused-ignore]
    try:
        for operator in chosen.include:
            for key, implementation in source.implementations(operator).items():
                _install(library, operator, key, implementation, chosen, device, calls)
        yield calls
    finally:
        library._destroy()  # type: ignore[no-untyped-call,unused-ignore]


def _install(
    library: Any,
    operator: str,
    key: str,
    implementation: Implementation,
    chosen: Operators,
    device: torch.device,
    calls: dict[str, int],
) -> None:
    dispatch = dispatch_key(device)
    classes = frozenset(chosen.native.get(operator, ()))
    native = native_kernel(key, dispatch)
    if native is None and classes:
        raise ChipFault(
            f"{operator} cannot fall through to the native kernel of aten::{key}",
            why="torch.library.get_kernel, in torch 2.9 and later, finds none",
            hint="use a newer torch, or select with --policy coverage",
        )
    falls = shape_rule(key, classes, frozenset(chosen.static))

    def by_shape(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        if native is not None and falls(args, kwargs):
            return native(keyset, *args, **kwargs)
        calls[operator] += 1
        return implementation(*args, **kwargs)

    def always(*args: Any, **kwargs: Any) -> Any:
        calls[operator] += 1
        return implementation(*args, **kwargs)

    if classes:
        quiet_override(library, key, by_shape, dispatch, with_keyset=True)
    else:
        quiet_override(library, key, always, dispatch)
