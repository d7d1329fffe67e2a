"""Override native kernels with operators, by shape class, within a `with` block.

Under a CUDA graph or torch.compile the choice is made once, during capture. In eager mode each call costs a look-up
by shapes, strides and dtypes; decoding repeats a few of them."""

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

REMEMBERED = 4096  # cached choices; a served model needs hundreds

Keyed = Callable[..., Any]
"""A kernel whose first argument is torch's dispatch key set."""


def shape_rule(key: str, native: frozenset[str], static: frozenset[int]) -> Callable[[Any, Any], bool]:
    """A predicate that is True if a call's shape class stays with the native kernel.

    `native` lists such classes. If it contains `*`, all classes stay native except those listed as `!CLASS`, so a
    class that was not measured stays native."""
    every = "*" in native
    excepted = {name[1:] for name in native if name.startswith("!")}
    known: dict[Any, bool] = {}

    def falls(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        values = (*args, *kwargs.values()) if kwargs else args
        name = tuple((v.shape, v.stride(), v.dtype) if isinstance(v, torch.Tensor) else _shapes(v) for v in values)
        result = known.get(name)
        if result is None:
            if len(known) >= REMEMBERED:
                known.clear()
            call = Call(key, tuple(map(spec_of, args)), tuple((n, spec_of(v)) for n, v in kwargs.items()))
            shapes = shape_class(call, static)
            result = known[name] = shapes not in excepted if every else shapes in native
        return result

    return falls


def _shapes(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple((v.shape, v.stride(), v.dtype) if isinstance(v, torch.Tensor) else None for v in value)
    return type(value)


@contextlib.contextmanager
def installed(
    source: Source, chosen: Operators, device: torch.device, compiled: nn.Module | None = None
) -> Iterator[dict[str, int]]:
    """Override kernels within the block; yields the number of runs of each operator, by name.

    `compiled`: a part of the model that runs eagerly here but is compiled when served. In it, products go to the
    operator that writes into given memory, and operators that Inductor compiles stay native (before torch 2.9, which
    cannot call the overridden native kernels, they are overridden too).
    Raises ChipFault if an operator must fall through to the native kernel and this torch cannot do that."""
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
    """The replacement kernels by aten key; each calls `called` with its operator's name when it runs.

    Raises ChipFault if one must fall through to the native kernel and this torch cannot do that."""
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
            why="torch.library.get_kernel (torch 2.9 and later) is missing or finds no kernel",
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
    """The kernels with those that a compiled model would call while `inside()` is true."""
    plain = {key: native_kernel(key, dispatch) for key in {*replaced, *INTO}}
    result = dict(replaced)
    for key, kernel in replaced.items():
        native = plain[key]
        if native is not None and fused(resolve(key)):
            result[key] = _either(inside, native, kernel)
    for key, into in INTO.items():
        native = plain[key]
        if native is not None and (key in replaced or into in replaced):
            through = _into(into) if into in replaced else native
            result[key] = _either(inside, through, replaced.get(key, native))
    return result


def _either(inside: Callable[[], bool], inner: Keyed, outer: Keyed) -> Keyed:
    def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        return (inner if inside() else outer)(keyset, *args, **kwargs)

    return kernel


def _into(key: str) -> Keyed:
    """A kernel that computes a product by its `out` overload, as Inductor does."""
    target = resolve(key)

    def kernel(_keyset: Any, *args: Any, **kwargs: Any) -> Any:
        left, right = [arg for arg in args if isinstance(arg, torch.Tensor)][-2:]
        out = left.new_empty((*left.shape[:-1], right.shape[-1]))
        return target(*args, **kwargs, out=out)

    return kernel
