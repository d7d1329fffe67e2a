"""Operator calls as specifications of tensors and scalars, without data, and their shape classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from flagkernels.errors import UsageError

__all__ = [
    "OUT",
    "Args",
    "Call",
    "Kwargs",
    "TensorSpec",
    "Token",
    "base_name",
    "overload_of",
    "resolve",
    "shape_class",
    "spec_of",
    "tensors_in",
]

OUT = "out"
"""torch's name of the argument that provides the memory for a result."""


@dataclass(frozen=True)
class TensorSpec:
    """The layout and dtype of a tensor."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    """In elements."""
    dtype: str
    """As torch names it: `bfloat16`."""

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, counting each once even if strides make them overlap."""
        return self.numel * torch_dtype(self.dtype).itemsize

    @property
    def extent(self) -> int:
        """Elements of storage that the strides span."""
        if self.numel == 0:
            return 0
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))

    @property
    def contiguous(self) -> bool:
        expected = 1
        for size, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and step != expected:
                return False
            expected *= size
        return True

    def to_json(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "stride": list(self.stride), "dtype": self.dtype}


@dataclass(frozen=True)
class Token:
    """An argument that is neither tensor nor number."""

    kind: str
    """dtype, device, layout or memory_format."""
    name: str
    """As torch names it; empty for a device."""


Args = tuple[Any, ...]
"""Positional arguments of an actual call: tensors, numbers, dtypes, devices, or sequences of them."""
Kwargs = dict[str, Any]
"""Its keyword arguments."""
Value = Any  # TensorSpec | Token | int | float | bool | str | None | tuple[Value, ...]


@dataclass(frozen=True)
class Call:
    """A call of an aten overload with given argument specifications."""

    overload: str
    """FlagGems' registration key: `mul.Tensor`, `mm`."""
    args: tuple[Value, ...]
    kwargs: tuple[tuple[str, Value], ...] = ()

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        return tuple(tensors_in(self))

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.tensors)

    @property
    def read(self) -> tuple[TensorSpec, ...]:
        """The tensors that are read: all but `out`."""
        return tuple(tensors_in(replace(self, kwargs=tuple((n, v) for n, v in self.kwargs if n != OUT))))

    def map(self, change: Callable[[Value], Value]) -> Call:
        """A copy of the call with `change` applied to every leaf (tensor, number, token)."""

        def walk(value: Value) -> Value:
            return tuple(walk(item) for item in value) if isinstance(value, tuple) else change(value)

        return replace(
            self, args=tuple(walk(a) for a in self.args), kwargs=tuple((name, walk(a)) for name, a in self.kwargs)
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "overload": self.overload,
            "args": [_pack(a) for a in self.args],
            "kwargs": {name: _pack(a) for name, a in self.kwargs},
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Call:
        """Raises UsageError if `data` is not the JSON form of a call."""
        try:
            return cls(
                overload=data["overload"],
                args=tuple(_unpack(a) for a in data["args"]),
                kwargs=tuple((name, _unpack(a)) for name, a in data.get("kwargs", {}).items()),
            )
        except (KeyError, TypeError) as error:
            raise UsageError("a call in the trace is damaged", why=repr(error), hint="run `trace` again") from error


def _pack(value: Value) -> Any:
    if isinstance(value, TensorSpec):
        return {"tensor": value.to_json()}
    if isinstance(value, Token):
        return {value.kind: value.name}
    if isinstance(value, tuple):
        return [_pack(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


def _unpack(value: Any) -> Value:
    if isinstance(value, list):
        return tuple(_unpack(item) for item in value)
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return TensorSpec(tuple(content["shape"]), tuple(content["stride"]), content["dtype"])
    return float(content) if kind == "float" else Token(kind, content)


def torch_dtype(name: str) -> torch.dtype:
    """torch's dtype of that name. Raises UsageError if this torch has no such dtype."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        hint = "use the torch version that wrote the trace, or run `trace` again"
        raise UsageError(f"{name!r} is not a dtype of this torch", hint=hint)
    return dtype


def spec_of(value: Any) -> Value:
    """The specification of an actual argument. Raises TypeError for a symbolic size."""
    match value:
        case torch.Tensor():
            return TensorSpec(tuple(value.shape), tuple(value.stride()), str(value.dtype).removeprefix("torch."))
        case torch.dtype():
            return Token("dtype", str(value).removeprefix("torch."))
        case torch.device():
            return Token("device", "")
        case torch.layout():
            return Token("layout", str(value).removeprefix("torch."))
        case torch.memory_format():
            return Token("memory_format", str(value).removeprefix("torch."))
        case list() | tuple():
            return tuple(spec_of(item) for item in value)
        case torch.Generator():
            return None  # the random state affects neither the kernel nor its shapes
        case torch.SymInt() | torch.SymFloat() | torch.SymBool():
            raise TypeError("symbolic sizes are not traced")
    return value


def tensors_in(call: Call) -> Iterator[TensorSpec]:
    def walk(value: Value) -> Iterator[TensorSpec]:
        if isinstance(value, TensorSpec):
            yield value
        elif isinstance(value, tuple):
            for item in value:
                yield from walk(item)

    for value in (*call.args, *(a for _, a in call.kwargs)):
        yield from walk(value)


def overload_of(func: torch._ops.OpOverload) -> str:
    """FlagGems' registration key of an aten overload: `mul.Tensor`; `mm` for the default overload."""
    name = func._schema.name.removeprefix("aten::")
    return f"{name}.{func._schema.overload_name}" if func._schema.overload_name else name


def base_name(overload: str) -> str:
    """`mul` for `mul.Tensor`."""
    return overload.split(".")[0]


def resolve(overload: str) -> torch._ops.OpOverload:
    """The aten overload of a registration key. Raises UsageError if this torch does not have it."""
    name, _, variant = overload.partition(".")
    packet = getattr(torch.ops.aten, name, None)
    operator = getattr(packet, variant or "default", None) if packet is not None else None
    if not isinstance(operator, torch._ops.OpOverload):
        raise UsageError(f"this torch has no aten::{overload}", hint="trace and qualify with the same torch version")
    return operator


_SHORT = {"bfloat16": "bf16", "float16": "f16", "float32": "f32", "float64": "f64", "int64": "i64", "int32": "i32"}


def shape_class(call: Call, static: frozenset[int]) -> str:
    """The class of shapes for which `select` makes one decision: `bf16[64,4096] bf16[4096,6144]`.

    Leading dimensions that are contiguous in memory are merged. Sizes in `static` (fixed by the model) are kept; all
    others are rounded up to a power of two. `*` marks a strided tensor.
    """
    return " ".join(_tensor_class(spec.shape, spec.stride, spec.dtype, static) for spec in call.tensors) or "scalars"


def _tensor_class(shape: tuple[int, ...], stride: tuple[int, ...], dtype: str, static: frozenset[int]) -> str:
    sizes, mark = list(shape), "" if TensorSpec(shape, stride, dtype).contiguous else "*"
    steps = list(stride)
    while len(sizes) > 2 and (steps[0] == steps[1] * sizes[1] or sizes[0] == 1):
        sizes[:2], steps[:2] = [sizes[0] * sizes[1]], [steps[1]]
    rounded = (str(n if n in static or n == 0 else 1 << (n - 1).bit_length()) for n in sizes)
    return f"{_SHORT.get(dtype, dtype)}[{','.join(rounded)}]{mark}"
