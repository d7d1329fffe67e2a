"""Recorded kernel launches, their candidates, and the rules for eliminating candidates.

Launches are recorded with stand-ins for tensors, so that thousands of them need no device memory and a process without
a device context can compile them. No I/O.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flagkernels.operators.backend import Candidate

__all__ = [
    "HOPELESS",
    "Compilation",
    "Launch",
    "Stand",
    "compilations",
    "finalists",
    "hopeless",
    "least_behind",
    "nearest",
    "stand_in",
    "survivors",
]

HOPELESS = 3.0
"""A candidate this many times slower than the best at a neighbouring key is not launched."""
SCREENED = 1.12
"""Ratio to the best above which screening eliminates a candidate; single launches repeat within a few per cent."""
CLOSE = 1.03
"""Ratio to the best above which the first round of replays eliminates a candidate."""
MOST_FINALISTS = 16

Key = tuple[bool | int | float | str, ...]


@dataclass(frozen=True)
class Stand:
    """A stand-in for a tensor without memory: what Triton specialises on, and what hooks and grids read."""

    dtype: Any
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In elements."""
    pointer: int
    """An address with the alignment of the tensor's."""
    device: Any = None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def data_ptr(self) -> int:
        return self.pointer

    def stride(self, axis: int | None = None) -> Any:
        return self.strides if axis is None else self.strides[axis]

    def size(self, axis: int | None = None) -> Any:
        return self.shape if axis is None else self.shape[axis]

    def dim(self) -> int:
        return len(self.shape)

    def numel(self) -> int:
        return math.prod(self.shape)

    def element_size(self) -> int:
        return int(self.dtype.itemsize)

    def is_contiguous(self) -> bool:
        dense = 1
        for length, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if length > 1 and stride != dense:
                return False
            dense *= max(length, 1)
        return True


def stand_in(value: Any) -> Any:
    """Replace a tensor, also inside a tensor descriptor, by a Stand of the same alignment; return others unchanged."""
    if hasattr(value, "data_ptr") and not isinstance(value, Stand):
        # Triton specialises on divisibility by 16, so only the low bits of the address matter.
        pointer = 1 << 20 | value.data_ptr() % 256
        return Stand(value.dtype, tuple(value.shape), tuple(value.stride()), pointer, str(value.device))
    if type(value).__name__ == "TensorDescriptor":
        shape, strides, block = list(value.shape), list(value.strides), list(value.block_shape)
        return type(value)(stand_in(value.base), shape, strides, block, value.padding)
    return value


@dataclass(frozen=True, eq=False)
class Launch:
    """One launch of one kernel."""

    fn: Any
    """The object below the tuner on which `run` is called: a Triton JITFunction, or Heuristics around one."""
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    configs: tuple[Candidate | None, ...]
    """The candidates after the tuner's pruning; (None,) without a tuner."""
    tuner: Any = None
    """FlagGems' LibTuner or Triton's Autotuner; None for a kernel without candidates."""
    key: Key = ()
    """The tuner's database key; empty if it stores no choice."""
    elements: int = 0
    """Tensor elements of the call that made the launch; the largest call represents all that share a key."""

    @property
    def name(self) -> str:
        return str(kernel_of(self.fn).__name__)


@dataclass(frozen=True, eq=False)
class Compilation:
    """One candidate of one launch, to be compiled."""

    launch: Launch
    config: Candidate | None
    """The candidate; None for a kernel without candidates."""
    signature: str
    """Equal for equal compilations (see `signature_of`)."""
    weight: float = field(default=0.0)
    """Estimate of the compile time, in no unit."""


def kernel_of(fn: Any) -> Any:
    """The JITFunction at the end of a chain of tuners and heuristics."""
    while not hasattr(fn, "cache_key"):
        fn = fn.fn
    return fn


def compilations(
    launches: Sequence[Launch], configs: Callable[[Launch], Sequence[Candidate | None]]
) -> list[Compilation]:
    """The distinct compilations, heaviest first, so that no long one starts last."""
    distinct: dict[str, Compilation] = {}
    for launch in launches:
        for config in configs(launch):
            signature = signature_of(launch, config)
            if signature not in distinct:
                distinct[signature] = Compilation(launch, config, signature, _weight(config))
    return sorted(distinct.values(), key=lambda compilation: -compilation.weight)


def _weight(config: Candidate | None) -> float:
    if config is None:
        return 0.0
    sizes = [value for value in config.kwargs.values() if isinstance(value, int) and value > 0]
    return float(math.prod(sizes) * int(config.num_stages))


def signature_of(launch: Launch, config: Candidate | None) -> str:
    """Approximates Triton's cache key: types, alignments, constants, results of heuristics, and the candidate.

    It may distinguish compilations that Triton would not (a wasted compilation), but not the reverse for any kind of
    argument that FlagGems passes; an error there costs one serial compilation later, never a wrong kernel."""
    kernel = kernel_of(launch.fn)
    constants = set(kernel.constexprs)
    parts = [launch.name, str(kernel.cache_key), str(config)]
    parts += [_specialised(arg, index in constants) for index, arg in enumerate(launch.args)]
    positions = {name: index for index, name in enumerate(kernel.arg_names)}
    for name, value in sorted(launch.kwargs.items()):
        if name not in ("grid", "warmup"):
            parts.append(f"{name}={_specialised(value, positions.get(name, -1) in constants or name not in positions)}")
    fn = launch.fn
    known = {**dict(zip(kernel.arg_names, launch.args, strict=False)), **launch.kwargs, **_kwargs(config)}
    while not hasattr(fn, "cache_key"):
        for name, heuristic in getattr(fn, "values", {}).items():
            known[name] = heuristic(known)
            parts.append(f"{name}={known[name]!r}")
        fn = fn.fn
    return "|".join(parts)


def _kwargs(config: Candidate | None) -> dict[str, Any]:
    return {} if config is None else dict(config.all_kwargs())


def _specialised(value: Any, constant: bool) -> str:
    if constant:
        return repr(value)
    if type(value).__name__ == "TensorDescriptor":
        return f"descriptor:{value.base.dtype}:{len(value.shape)}"
    if hasattr(value, "data_ptr"):
        return f"{value.dtype}:{value.data_ptr() % 16 == 0}"
    if isinstance(value, bool) or not isinstance(value, int):
        return f"{type(value).__name__}" if isinstance(value, float) else repr(value)
    if value == 1:
        return "one"
    return f"int{32 if -(2**31) <= value < 2**31 else 64}:{value % 16 == 0}"


def nearest(key: Key, others: Sequence[Key]) -> Key | None:
    """The key nearest to `key` by doublings summed over the numbers, if all other parts are equal; None if none is."""

    def distance(other: Key) -> float:
        if len(other) != len(key):
            return math.inf
        total = 0.0
        for ours, theirs in zip(key, other, strict=True):
            if _positive(ours) and _positive(theirs):
                total += abs(math.log2(float(ours) / float(theirs)))
            elif ours != theirs:
                return math.inf
        return total

    best = min(others, key=distance, default=None)
    return best if best is not None and distance(best) < math.inf else None


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def hopeless(key: Key, measured: Mapping[Key, Mapping[str, float]]) -> set[str]:
    """Candidates (as text) ruled out by their times at the nearest measured key, at most one doubling away."""
    near = nearest(key, list(measured))
    if near is None or _doublings(key, near) > 1.0 + 1e-9:
        return set()
    times = measured[near]
    finite = [time for time in times.values() if math.isfinite(time)]
    if not finite:
        return set()
    return {config for config, time in times.items() if time > HOPELESS * min(finite)}


def _doublings(key: Key, other: Key) -> float:
    pairs = zip(key, other, strict=True)
    return math.fsum(abs(math.log2(float(a) / float(b))) for a, b in pairs if _positive(a) and _positive(b))


def finalists(screened: Mapping[str, float]) -> list[str]:
    """The candidates to replay, best first."""
    finite = {config: time for config, time in screened.items() if math.isfinite(time)}
    if not finite:
        return []
    limit = min(finite.values()) * SCREENED
    return sorted((config for config in finite if finite[config] <= limit), key=finite.__getitem__)[:MOST_FINALISTS]


def least_behind(times: Sequence[Mapping[str, float]]) -> str:
    """The candidate with the smallest worst-case ratio to the best one, over several calls."""
    best = [min(at.values()) for at in times]
    return min(times[0], key=lambda text: max(at[text] / fastest for at, fastest in zip(times, best, strict=True)))


def survivors(medians: Mapping[str, float]) -> list[str]:
    """The candidates for a second round of replays, best first."""
    limit = min(medians.values()) * CLOSE
    return sorted((config for config in medians if medians[config] <= limit), key=medians.__getitem__)
