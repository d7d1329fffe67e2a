"""Judge one case: results against float64, memory accesses, and determinism."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from flagkernels.operators.calls import Args, Kwargs, base_name, resolve
from flagkernels.operators.registry import Implementation, active
from flagkernels.qualify import tolerance
from flagkernels.qualify.cases import Case
from flagkernels.qualify.compare import ENOUGH, Comparer, Comparison, equal, form
from flagkernels.qualify.guards import Arena, guarded_allocations, poison_allocator
from flagkernels.qualify.inputs import make

__all__ = ["CaseResult", "judge"]


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """The verdict on one case."""

    case: str
    verdict: str
    """One of VERDICTS in rows.py."""
    reason: str = ""
    error: float | None = None
    """Largest |result − exact| over its bound; correct if <= 1."""
    native: float | None = None
    """The same for the vendor's kernel."""
    relative: float | None = None
    """‖result − exact‖ / ‖exact‖."""
    gain: float | None = None
    """Slope of the regression of result on reference, minus one."""
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value not in (None, "")}


class Dropped(Exception):
    """The case cannot be judged: the native operator rejects it, or float64 does not fit into memory."""


def judge(
    case: Case, implementations: Mapping[str, Implementation], device: torch.device, *, repeats: int, seed: int
) -> CaseResult:
    """Run the operator once in guarded memory and `repeats − 1` times without guards, and judge the results.

    Raises Dropped if the native operator rejects the case or float64 does not fit, and whatever the operator under test
    raises."""
    arena = Arena(device)
    target = resolve(case.call.overload)
    try:
        given = _given(case, target, arena, seed)
    except (RuntimeError, IndexError, ValueError, TypeError, NotImplementedError) as error:
        # The operator under test has not run yet, and is not to blame if float64 does not fit into memory.
        raise Dropped(str(error)) from error
    if given.exact is None:
        return _random(case, target, given.args, given.kwargs, implementations, given.native, device)
    trial = _Trial(case.call.overload, implementations, arena)
    damage = trial.run_guarded(given)
    # Without guards the same write would corrupt other memory; one run is sufficient evidence.
    for _ in range(0 if damage else repeats - 1):
        trial.run_again(given)
    if not all(trial.called):
        return CaseResult(case=str(case), verdict="unsupported", reason="the dispatcher never called it")
    compare = Comparer(case, given.args, given.exact, given.limits)
    comparisons = [compare(run, given.native) for run in trial.runs]
    worst = max(comparisons, key=lambda comparison: (bool(comparison.reason), comparison.error))
    verdict, reason = _verdict(damage, comparisons, trial.runs)
    return CaseResult(
        case=str(case),
        verdict=verdict,
        reason=reason,
        error=_finite(worst.error),
        native=_finite(compare(given.native, given.native).error),
        relative=worst.relative,
        gain=worst.gain,
    )


@dataclass(frozen=True, kw_only=True)
class _Given:
    """The inputs of a case, and the expected results."""

    args: Args
    kwargs: Kwargs
    native: list[Any]
    """The native operator's results."""
    exact: list[list[Any]] | None
    """Alternative float64 results; None for an operator that draws random numbers."""
    limits: list[torch.Tensor]
    """Allowed absolute error of each element, for each tensor result."""


def _given(case: Case, target: torch._ops.OpOverload, arena: Arena, seed: int) -> _Given:
    args, kwargs = make(case, arena, seed)
    native = _results(target, args, kwargs)
    if torch.Tag.nondeterministic_seeded in target.tags:
        return _Given(args=args, kwargs=kwargs, native=native, exact=None, limits=[])
    dtypes = [result.dtype for result in native if isinstance(result, torch.Tensor)]
    exact, limits = _exact(case, target, args, kwargs, dtypes)
    return _Given(args=args, kwargs=kwargs, native=native, exact=exact, limits=limits)


class _Trial:
    """The runs of an operator on one input."""

    def __init__(self, overload: str, implementations: Mapping[str, Implementation], arena: Arena) -> None:
        self.overload, self.implementations, self.arena = overload, implementations, arena
        self.target = resolve(overload)
        self.runs: list[list[Any]] = []
        self.called: list[int] = []
        """Calls by the dispatcher in each run."""
        self.shared: list[str] = []
        """Descriptions of results that are views of arguments."""

    def run_guarded(self, given: _Given) -> list[str]:
        """The first run, in guarded memory. Returns what it violated: writes out of bounds, changed inputs, results
        that share memory with arguments."""
        inside = _clone(given.args, self.arena), _clone(given.kwargs, self.arena)
        self._run(*inside, guarded_allocations(self.arena))
        changed = _changed_inputs(self.target, (given.args, given.kwargs), inside)
        return self.arena.violations() or changed or self.shared

    def run_again(self, given: _Given) -> None:
        """One more run, on memory that contains NaN where nothing was written."""
        poison_allocator(tuple(r for r in self.runs[0] if isinstance(r, torch.Tensor)), self.arena.device)
        again = Arena(self.arena.device)  # keeps the strides, since another layout may be summed in another order
        self._run(_clone(given.args, again), _clone(given.kwargs, again), contextlib.nullcontext())

    def _run(self, args: Args, kwargs: Kwargs, allocations: contextlib.AbstractContextManager[Any]) -> None:
        device = self.arena.device
        with active(self.implementations, device, lambda: self.arena.busy) as calls, allocations:
            results = _results(self.target, args, kwargs, clone=False)
            _sync(device)
        self.called.append(calls[self.overload])
        self.shared.extend(_shared_memory(self.target, results, args, kwargs))
        self.runs.append([_detach(result) for result in results])


def _verdict(damage: list[str], comparisons: Sequence[Comparison], runs: Sequence[Sequence[Any]]) -> tuple[str, str]:
    if damage:
        return "wrong", "; ".join(damage)
    wrong = [index for index, comparison in enumerate(comparisons) if comparison.reason]
    if wrong and len(wrong) < len(runs):
        which = ", ".join(str(index + 1) for index in wrong)
        reason = comparisons[wrong[0]].reason
        return "nondeterministic", f"wrong in run {which} of {len(runs)} on the same input: {reason}"
    if wrong:
        return "wrong", comparisons[0].reason
    if any(not _same(runs[0], run) for run in runs[1:]):
        return "nondeterministic", f"{len(runs)} runs on the same input differ in their bits; all are within the bound"
    return "correct", ""


def _results(target: torch._ops.OpOverload, args: Args, kwargs: Kwargs, *, clone: bool = True) -> list[Any]:
    """The results of the call or, for an in-place operator, the arguments that it wrote."""
    written = [a.name for a in target._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    if clone and written:
        args, kwargs = _clone(args), _clone(kwargs)
    returned = target(*args, **kwargs)
    if written:
        names = [a.name for a in target._schema.arguments]
        return [kwargs[name] if name in kwargs else args[names.index(name)] for name in written]
    return list(returned) if isinstance(returned, list | tuple) else [returned]


def _clone(value: Any, arena: Arena | None = None) -> Any:
    if isinstance(value, torch.Tensor):
        if arena is None or value.device.type != arena.device.type:
            return value.clone()
        copy = arena.take(tuple(value.shape), value.stride(), value.dtype)
        index = tuple(slice(0, 1) if step == 0 else slice(None) for step in value.stride())
        copy[index].copy_(value[index])
        return copy
    if isinstance(value, dict):
        return {name: _clone(item, arena) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_clone(item, arena) for item in value)
    return value


def _detach(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def _changed_inputs(
    target: torch._ops.OpOverload, before: tuple[Args, Kwargs], after: tuple[Args, Kwargs]
) -> list[str]:
    """Descriptions of arguments that the operator changed although its schema does not allow it."""
    changed = []
    for position, argument in enumerate(target._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            continue
        pair: list[Any] = [
            kwargs.get(argument.name, args[position] if position < len(args) else None)
            for args, kwargs in (before, after)
        ]
        if isinstance(pair[0], torch.Tensor) and not equal(pair[0], pair[1]):
            changed.append(f"changed its argument {argument.name}")
    return changed


def _shared_memory(target: torch._ops.OpOverload, results: Sequence[Any], args: Args, kwargs: Kwargs) -> list[str]:
    """Descriptions of results that are views of arguments although the schema promises new memory: a later in-place
    write to one would change the other."""
    schema = target._schema
    if any(a.alias_info is not None for a in (*schema.arguments, *schema.returns)):
        return []
    owners = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs)) if t.numel()}
    return [
        f"result {index} shares memory with an argument"
        for index, result in enumerate(results)
        if isinstance(result, torch.Tensor) and result.numel() and result.untyped_storage().data_ptr() in owners
    ]


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _exact(
    case: Case, target: torch._ops.OpOverload, args: Args, kwargs: Kwargs, dtypes: Sequence[torch.dtype]
) -> tuple[list[list[Any]], list[torch.Tensor]]:
    """Alternative float64 results, and their bounds. For subnormal inputs, the alternative has them flushed to zero,
    which kernels may do (IEEE 754 leaves it to the platform; CUDA: -ftz)."""
    if base_name(case.call.overload) == "_grouped_mm":
        run: Callable[..., list[Any]] = _grouped
    else:

        def run(*a: Any, **k: Any) -> list[Any]:
            return _results(target, a, k)

    wide_args, wide_kwargs = _widen(args), _widen(kwargs)
    try:
        reference = run(*wide_args, **wide_kwargs)
    except (RuntimeError, NotImplementedError) as error:
        if _is_memory(error):
            raise
        wide_args, wide_kwargs = _move(wide_args, "cpu"), _move(wide_kwargs, "cpu")  # chips without float64
        reference = run(*wide_args, **wide_kwargs)
    tensors = [r for r in reference if isinstance(r, torch.Tensor)]
    limits = tolerance.bound(
        case.call.overload,
        lambda *a, **k: [r for r in run(*a, **k) if isinstance(r, torch.Tensor)],
        wide_args,
        wide_kwargs,
        tensors,
        dtypes,
    )
    alternatives = [reference]
    if case.regime == "subnormal":
        alternatives.append(run(*tolerance.map_floats(wide_args, _flush(args)), **wide_kwargs))
    return alternatives, limits


def _flush(args: Args) -> Callable[[torch.Tensor], torch.Tensor]:
    dtypes = [a.dtype for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()]
    smallest = max((torch.finfo(dtype).smallest_normal for dtype in dtypes), default=0.0)
    return lambda x: torch.where(x.abs() < smallest, torch.zeros_like(x), x)


def _grouped(x: torch.Tensor, weights: torch.Tensor, offs: torch.Tensor, *_: Any, **__: Any) -> list[torch.Tensor]:
    """aten::_grouped_mm, which has no float64 kernel: one matrix product per group of rows between the offsets."""
    ends = [0, *offs.tolist()]
    rows = [x[start:end] @ weights[group] for group, (start, end) in enumerate(itertools.pairwise(ends))]
    return [torch.cat(rows)]


def _widen(value: Any) -> Any:
    return tolerance.map_floats(value, lambda x: x.double())


def _move(value: Any, device: str) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, torch.device):
        return torch.device(device)
    if isinstance(value, dict):
        return {name: _move(item, device) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_move(item, device) for item in value)
    return value


def _random(
    case: Case,
    target: torch._ops.OpOverload,
    args: Args,
    kwargs: Kwargs,
    implementations: Mapping[str, Implementation],
    native: list[Any],
    device: torch.device,
) -> CaseResult:
    """Judge an operator that draws random numbers: its distribution must equal the native one, by the two-sample
    Kolmogorov–Smirnov test at level 10⁻⁶ (critical value √(ln(2·10⁶)/2)·√(2/n), Smirnov's asymptotic formula)."""
    with active(implementations, device):
        got = _results(target, args, kwargs)
        _sync(device)
    for mine, plain in zip(got, native, strict=True):
        if mine.shape != plain.shape or mine.dtype != plain.dtype:
            return CaseResult(case=str(case), verdict="wrong", reason=f"result {form(mine)}, native {form(plain)}")
        a, b = mine.double().flatten().sort().values, plain.double().flatten().sort().values
        if a.numel() < ENOUGH:
            continue
        both = torch.cat([a, b])
        steps = [torch.searchsorted(x, both, right=True) / x.numel() for x in (a, b)]
        distance = float((steps[0] - steps[1]).abs().max())
        limit = math.sqrt(math.log(2e6) / 2) * math.sqrt(2 / a.numel())
        if distance > limit:
            reason = f"distribution differs from the native one: KS {distance:.4f}, limit {limit:.4f}"
            return CaseResult(case=str(case), verdict="wrong", reason=reason, error=distance / limit)
    return CaseResult(case=str(case), verdict="correct")


def _same(run: Sequence[Any], other: Sequence[Any]) -> bool:
    pairs = zip(run, other, strict=True)
    return all(equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _is_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def _sync(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
