"""Operators in place of the native kernels, by operator and shape class, for the length of a `with` block.

Under a CUDA graph or torch.compile the choice is made once, while capturing, and costs nothing afterwards. In eager
mode a call costs a look-up by shapes, strides and dtypes: decode repeats the same few."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from flagkernels.errors import ChipFault
from flagkernels.operators.calls import Call, resolve, shape_class, spec_of
from flagkernels.operators.inductor import INTO, fused, running
from flagkernels.operators.listing import Operators
from flagkernels.operators.registry import Implementation, Source, dispatch_key, native_kernel, quiet_override

__all__ = ["installed", "kernels", "shape_rule"]

REMEMBERED = 4096  # calls whose choice is kept; a served model has hundreds

Keyed = Callable[..., Any]
"""A kernel that is handed torch's dispatch keys before its arguments."""


def shape_rule(key: str, native: frozenset[str], static: frozenset[int]) -> Callable[[Any, Any], bool]:
    """A predicate: True for a call whose shape class stays with the native kernel.

    `native` lists such classes. With `*` in it all classes stay, but for those that it lists as `!CLASS`: so a class
    that was not measured stays native."""
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
def installed(
    source: Source, chosen: Operators, device: torch.device, compiled: nn.Module | None = None
) -> Iterator[dict[str, int]]:
    """Gives how often each operator ran. Raises ChipFault where an operator must fall through and torch cannot.

    `compiled`: a part of the model that runs here as it is written, and is compiled where it is served. In it, products
    go to the operator that writes into given memory, and what Inductor has kernels of its own for stays native (before
    torch 2.9, which cannot go back to native kernels, it is run as it is written)."""
    calls = dict.fromkeys(chosen.include, 0)

    def called(operator: str) -> None:
        calls[operator] += 1

    dispatch = dispatch_key(device)
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call,unused-ignore]
    with contextlib.ExitStack() as stack:
        stack.callback(library._destroy)  # type: ignore[no-untyped-call,unused-ignore]
        replaced = kernels(source, chosen, dispatch, called)
        if compiled is not None:
            replaced = _as_compiled(replaced, dispatch, stack.enter_context(running(compiled)))
        for key, kernel in replaced.items():
            quiet_override(library, key, kernel, dispatch, with_keyset=True)
        yield calls


def kernels(source: Source, chosen: Operators, dispatch: str, called: Callable[[str], None]) -> dict[str, Keyed]:
    """The replacements of torch's kernels, by aten key; `called` is called with the operator's name at each run. Raises
    ChipFault where one must fall through and torch cannot."""
    return {
        key: _kernel(operator, key, implementation, chosen, dispatch, called)
        for operator in chosen.include
        for key, implementation in source.implementations(operator).items()
    }


def _kernel(
    operator: str,
    key: str,
    implementation: Implementation,
    chosen: Operators,
    dispatch: str,
    called: Callable[[str], None],
) -> Keyed:
    classes = frozenset(chosen.native.get(operator, ()))

    def always(_keyset: Any, *args: Any, **kwargs: Any) -> Any:
        called(operator)
        return implementation(*args, **kwargs)

    if not classes:
        return always
    native = native_kernel(key, dispatch)
    if native is None:
        raise ChipFault(
            f"{operator} cannot fall through to the vendor's kernel of aten::{key}",
            why="torch.library.get_kernel, in torch 2.9 and later, finds none",
            hint="use a newer torch, or select with --policy coverage",
        )
    falls = shape_rule(key, classes, frozenset(chosen.static))

    def by_shape(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        if falls(args, kwargs):
            return native(keyset, *args, **kwargs)
        called(operator)
        return implementation(*args, **kwargs)

    return by_shape


def _as_compiled(replaced: dict[str, Keyed], dispatch: str, inside: Callable[[], bool]) -> dict[str, Keyed]:
    """The kernels as a compiled part of the model meets them, wherever `inside` says that it is running."""
    plain = {key: native_kernel(key, dispatch) for key in {*replaced, *INTO}}
    found = dict(replaced)
    for key, kernel in replaced.items():
        native = plain[key]
        if native is not None and fused(resolve(key)):
            found[key] = _either(inside, native, kernel)
    for key, into in INTO.items():
        native = plain[key]
        if native is not None and (key in replaced or into in replaced):
            through = _into(into) if into in replaced else native
            found[key] = _either(inside, through, replaced.get(key, native))
    return found


def _either(inside: Callable[[], bool], there: Keyed, elsewhere: Keyed) -> Keyed:
    def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        return (there if inside() else elsewhere)(keyset, *args, **kwargs)

    return kernel


def _into(key: str) -> Keyed:
    """A product by the overload that writes into given memory, as Inductor calls it."""
    target = resolve(key)

    def kernel(_keyset: Any, *args: Any, **kwargs: Any) -> Any:
        left, right = [arg for arg in args if isinstance(arg, torch.Tensor)][-2:]
        out = left.new_empty((*left.shape[:-1], right.shape[-1]))
        return target(*args, **kwargs, out=out)

    return kernel
