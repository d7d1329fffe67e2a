"""Sources of operators (FlagGems, or a mapping in any module) and their registration in torch's dispatcher."""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from flagkernels.errors import ChipFault, UsageError, did_you_mean
from flagkernels.operators.calls import resolve

__all__ = [
    "Implementation",
    "NotOffered",
    "Source",
    "active",
    "capturing",
    "device_here",
    "device_index",
    "dispatch_key",
    "native_kernel",
    "open_source",
    "quiet_override",
]

Implementation = Callable[..., Any]


class NotOffered(UsageError):
    """The source does not have this operator, or not on this chip."""


class Source(Protocol):
    """A source of implementations. Only child processes open one: importing FlagGems initialises the chip."""

    def implementations(self, operator: str) -> Mapping[str, Implementation]:
        """Implementations by registration key. Raises NotOffered if the source does not have the operator."""


@dataclass(frozen=True)
class Planted:
    """Operators from a mapping in a module: planted faults, or a vendor's own kernels."""

    operators: Mapping[str, Mapping[str, Implementation]]
    """Operator → registration key → implementation."""

    def implementations(self, operator: str) -> Mapping[str, Implementation]:
        if operator not in self.operators:
            raise NotOffered(f"no operator {operator!r}", hint=did_you_mean(operator, self.operators))
        return self.operators[operator]


class FlagGems:
    """The installed flag_gems, with the operators that it enables on this chip."""

    def __init__(self, configs: int | None) -> None:
        if configs is not None:  # a choice among a few candidates must not enter the database that is shipped
            os.environ["FLAGGEMS_DB_URL"] = f"sqlite:///{tempfile.mkdtemp()}/few.db"
        try:
            self.gems = importlib.import_module("flag_gems")
        except Exception as error:  # it queries the vendor's chip on import and fails in many ways
            raise ChipFault("flag_gems cannot be imported", why=repr(error), hint="run on the chip") from error
        if configs is not None:
            _few_configs(configs)

    def implementations(self, operator: str) -> Mapping[str, Implementation]:
        offered = self._offered
        implementations = {entry[0]: entry[1] for entry in offered.get(operator, []) if len(entry) < 3 or entry[2]()}
        if not implementations:
            hint = did_you_mean(operator, offered)
            raise NotOffered(f"FlagGems has no operator {operator!r} on this chip", hint=hint)
        return implementations

    @property
    def _offered(self) -> Mapping[str, Sequence[tuple[Any, ...]]]:
        """The entries of FlagGems' list by operator. Before 5.0 the list is only in its source; the functions are names
        of the package, which a vendor's own have replaced."""
        if (known := getattr(self.gems, "FULL_CONFIG_BY_FUNC", None)) is not None:
            return known  # type: ignore[no-any-return]
        from flagkernels.operators import catalogue

        listed = catalogue.load(Path(str(self.gems.__file__)).parent)
        return {
            name: [(key, getattr(self.gems, name)) for key in listed.of(name)]
            for name in listed.operators
            if callable(getattr(self.gems, name, None))
        }


def _few_configs(count: int) -> None:
    """Make LibTuner compare `count` of its candidates, evenly spread, instead of hundreds."""
    tuner = importlib.import_module("flag_gems.utils.libentry").LibTuner
    prune = tuner.prune_configs

    def pruned(self: Any, kwargs: Any) -> list[Any]:
        configs = list(prune(self, kwargs))
        return configs[:: max(len(configs) // count, 1)][:count]

    tuner.prune_configs = pruned


def open_source(spec: str, *, configs: int | None = None) -> Source:
    """Open `flag_gems`, or `MODULE:ATTRIBUTE` naming a mapping of operator → registration key → implementation.

    `configs`: number of LibTuner candidates to compare; None: all. Raises ChipFault if flag_gems cannot be imported,
    UsageError if the attribute is not such a mapping."""
    if spec == "flag_gems":
        return FlagGems(configs)
    module, _, attribute = spec.partition(":")
    try:
        operators = getattr(importlib.import_module(module), attribute)
        if not isinstance(operators, Mapping):
            raise ValueError(f"it is a {type(operators).__name__}, not a mapping")
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"{spec!r} does not name operators", why=str(error), hint="write MODULE:ATTRIBUTE") from error
    return Planted(operators)


def quiet_override(library: Any, key: str, implementation: Implementation, dispatch: str, **options: Any) -> None:
    """Register a kernel without torch's warning that it overrides another, which is intended."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="[\\s\\S]*Overriding a previously registered kernel")
        try:
            library.impl(key, implementation, dispatch, allow_override=True, **options)
        except TypeError:  # torch before 2.9
            library.impl(key, implementation, dispatch, **options)


@contextlib.contextmanager
def active(
    implementations: Mapping[str, Implementation], device: torch.device, bypass: Callable[[], bool] = lambda: False
) -> Iterator[dict[str, int]]:
    """Make aten call these implementations on the device within the block; yields the number of calls of each.

    While `bypass()` is true, calls go to the native kernels (torch ≥ 2.9 only)."""
    calls = dict.fromkeys(implementations, 0)
    dispatch = dispatch_key(device)

    def counted(key: str) -> Implementation:
        inner, native = implementations[key], native_kernel(key, dispatch)

        def run(keyset: Any, *args: Any, **kwargs: Any) -> Any:
            if native is not None and bypass():
                return native(keyset, *args, **kwargs)
            calls[key] += 1
            return inner(*args, **kwargs)

        return run

    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call,unused-ignore]
    try:
        for key in implementations:
            resolve(key)
            quiet_override(library, key, counted(key), dispatch, with_keyset=True)
        yield calls
    finally:
        library._destroy()  # type: ignore[no-untyped-call,unused-ignore]


def native_kernel(key: str, dispatch: str) -> Implementation | None:
    """The vendor's kernel as `kernel(keyset, *args)`, to be fetched before it is overridden; None before torch 2.9.

    Python kernels receive the 2 of `x * 2` as a plain number; the boxed kernel expects a tensor, like the
    dispatcher's wrapped numbers."""
    get_kernel = getattr(torch.library, "get_kernel", None)
    if get_kernel is None:
        return None
    try:
        kernel = get_kernel(f"aten::{key}", dispatch)
    except RuntimeError:
        return None  # composite: no kernel for this device
    positions = [
        index
        for index, argument in enumerate(resolve(key)._schema.arguments)
        if str(argument.type) == "Tensor" and not argument.kwarg_only
    ]

    def run(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        for index in positions:
            if index < len(args) and type(args[index]) in (int, float, bool):
                args = (*args[:index], _as_tensor(args[index], args), *args[index + 1 :])
        return kernel.call_boxed(keyset, *args, **kwargs)

    return run


def _as_tensor(number: int | float | bool, args: tuple[Any, ...]) -> torch.Tensor:
    """A 0-dimensional tensor with the same type promotion as the number: with another 0-dimensional tensor it takes the
    result's dtype; with a dimensioned one, promotion is by category only."""
    for other in args:
        if isinstance(other, torch.Tensor) and not other.dim():
            return torch.tensor(number, dtype=torch.result_type(other, number))
    return torch.tensor(number)


def device_here(name: str, devices: int = 1) -> torch.device:
    """torch's device of that name. Raises ChipFault if fewer than `devices` of it are available in this process."""
    try:
        device = torch.device(name)
        module = torch.get_device_module(device)
        present = 1 if device.type == "cpu" else module.device_count() if module.is_available() else 0
    except (RuntimeError, AttributeError):
        present = 0
    if not present:
        raise ChipFault(f"device {name!r} is not available", hint="run on the chip, or with --device cpu")
    if present < devices:
        raise ChipFault(
            f"the model needs {devices} devices, and {present} {'is' if present == 1 else 'are'} available here",
            hint="make more of the chip's devices visible, or serve the model with fewer --devices",
        )
    return device


def capturing(device: torch.device) -> Callable[[], bool]:
    """A function that reports whether a CUDA graph is being captured; always False on devices without graphs."""
    module = torch.get_device_module(device)
    is_capturing: Callable[[], bool] = getattr(module, "is_current_stream_capturing", lambda: False)
    return is_capturing


def device_index(device: torch.device) -> Callable[[], int | None]:
    """A function that returns the number of the device that the calling thread uses: torch has a current one for each
    thread. None before the process uses one. It opens none: an engine's processes that compute nothing would take
    memory of the device."""
    module = torch.get_device_module(device)
    initialised: Callable[[], bool] = getattr(module, "is_initialized", lambda: False)

    def index() -> int | None:
        number = module.current_device() if initialised() else None
        return number if isinstance(number, int) else None  # a processor has none

    return index


def dispatch_key(device: torch.device) -> str:
    """torch's dispatch key of a device type: PrivateUse1 for vendors outside torch."""
    known = {"cpu": "CPU", "cuda": "CUDA", "xpu": "XPU", "mps": "MPS", "hpu": "HPU"}
    return known.get(device.type, "PrivateUse1")
