"""Capture FlagGems' kernel launches by running its operators up to the launch.

Patches LibTuner.run and Autotuner.run, where the candidates are known, and JITFunction.run for kernels without
candidates. LibEntry, a cache of launches in front of them, is bypassed so that it caches nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from flagkernels.operators.backend import Target
from flagkernels.tuning.candidates import Key, Launch, stand_in

__all__ = ["Failure", "Library", "discover", "key_of", "launches_of", "patched", "recording_kernels"]


class Library(Protocol):
    """The parts of FlagGems that tuning uses."""

    tuner_class: Any
    """LibTuner."""
    entry_class: Any
    """LibEntry."""
    model: Any
    """Its database (database.Model)."""
    device: str
    """torch's device type."""

    def function(self, overload: str) -> Callable[..., Any]:
        """FlagGems' function for an overload. Raises UsageError if FlagGems does not register it."""
        ...

    def target(self) -> Target:
        """Triton's compilation target."""
        ...

    def shared_memory(self) -> int:
        """Bytes that one block may use; a candidate that needs more is never launched."""
        ...


@dataclass(frozen=True)
class Failure:
    """An operator that raised."""

    call: str
    """Name of the operation."""
    error: str
    """Type and message of the exception."""


def key_of(tuner: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Key:
    """The database key of a launch, computed by the tuner."""
    named = {**dict(zip(tuner.arg_names, args, strict=False)), **kwargs}
    key: Key = tuner.get_key({name: value for name, value in named.items() if name in tuner.arg_names})
    return key


@contextlib.contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set `owner.name` to `value` within the block."""
    before = owner.__dict__.get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def _bypass(entry: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    return entry.fn.run(*args, **kwargs), {}


@contextlib.contextmanager
def _capturing(library: Library, record: Callable[[Launch], None], *, tuners: bool) -> Iterator[None]:
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import JITFunction

    def tuned(tuner: Any, *args: Any, **kwargs: Any) -> None:
        tuner.nargs = dict(zip(tuner.arg_names, args, strict=False))
        several = len(tuner.configs) > 1
        configs = tuple(tuner.prune_configs(kwargs)) if several else tuple(tuner.configs)
        ours = isinstance(tuner, library.tuner_class)
        key = key_of(tuner, args, kwargs) if several and ours else ()
        tuner.best_config, tuner.nargs = configs[0], None
        record(Launch(tuner.fn, tuple(map(stand_in, args)), _stand_ins(kwargs), configs, tuner, key))

    def plain(kernel: Any, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("warmup"):
            return
        record(Launch(kernel, tuple(map(stand_in, args)), _stand_ins(kwargs), (None,)))

    with contextlib.ExitStack() as stack:
        stack.enter_context(patched(library.entry_class, "run", _bypass))
        stack.enter_context(patched(JITFunction, "run", plain))
        if tuners:
            stack.enter_context(patched(library.tuner_class, "run", tuned))
        stack.enter_context(patched(Autotuner, "run", tuned))
        yield


def _stand_ins(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: stand_in(value) for name, value in kwargs.items()}


def launches_of(library: Library, call: Callable[[], object], elements: int, *, tuners: bool = True) -> list[Launch]:
    """The launches of one call, none of which is carried out.

    `tuners=False`: FlagGems' tuners take their stored choices, and the launches below them are captured."""
    captured: list[Launch] = []
    with _capturing(library, captured.append, tuners=tuners):
        call()
    return [replace(launch, elements=elements) for launch in captured]


def discover(
    library: Library, calls: Sequence[tuple[str, int, Callable[[], object]]], *, tuners: bool = True
) -> tuple[list[tuple[int, Launch]], list[Failure]]:
    """(index of the call, launch) for each launch of each (name, elements, call), and the calls that failed."""
    launches: list[tuple[int, Launch]] = []
    failed: list[Failure] = []
    for index, (name, elements, call) in enumerate(calls):
        try:
            launches += [(index, launch) for launch in launches_of(library, call, elements, tuners=tuners)]
        except Exception as error:  # an operator that cannot run is reported and does not end the session
            failed.append(Failure(name, f"{type(error).__name__}: {error}"[:500]))
    return launches, failed


@contextlib.contextmanager
def recording_kernels(library: Library, seen: set[str]) -> Iterator[None]:
    """Within the block, add the hashes of the compiled kernels that real launches use to `seen`."""
    from triton.runtime.jit import JITFunction

    original = JITFunction.run

    def run(kernel: Any, *args: Any, **kwargs: Any) -> Any:
        compiled = original(kernel, *args, **kwargs)
        if compiled is not None:
            seen.add(str(compiled.hash))
        return compiled

    with patched(library.entry_class, "run", _bypass), patched(JITFunction, "run", run):
        yield
