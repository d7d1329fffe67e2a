"""Run a tuning session in one process: discover, compile, time, reconcile, complete and verify."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from flagkernels.errors import BudgetTooSmall, ChipFault, KernelsError, NoSpace
from flagkernels.tuning import candidates, database
from flagkernels.tuning.candidates import Key, Launch, compilations
from flagkernels.tuning.capture import Failure, Library, discover, key_of, patched, recording_kernels
from flagkernels.tuning.compile import Compiled, compile_all
from flagkernels.tuning.journal import Journal, Report, Tuned
from flagkernels.tuning.key import Contest, name_of, names_of
from flagkernels.tuning.timer import Timer

if TYPE_CHECKING:  # imports torch
    from flagkernels.operators.calls import Args, Kwargs

__all__ = ["Operation", "Session"]

T = TypeVar("T")

COMPILE_SHARE = 0.6
"""Share of the budget available for compiling, so that time remains for timing."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A call whose kernels are tuned."""

    name: str
    """For reports."""
    operator: str
    elements: int
    """Of all tensors together."""
    function: Callable[..., Any]
    """FlagGems' implementation."""
    blank: Callable[[], tuple[Args, Kwargs]]
    """Makes args and kwargs with uninitialised tensors."""
    real: Callable[[], tuple[Args, Kwargs]]
    """Makes args and kwargs with values of the model's spread."""

    def shell(self) -> None:
        """Call the function on uninitialised memory."""
        args, kwargs = self.blank()
        self.function(*args, **kwargs)

    def run(self) -> None:
        """Call the function on real values."""
        args, kwargs = self.real()
        self.function(*args, **kwargs)


@dataclass
class Session:
    """A tuning session and its results so far."""

    library: Library
    timer: Timer
    journal: Journal
    deadline: float = math.inf
    """time.monotonic() at which the budget ends."""
    width: int | None = None
    """Number of parallel compilers; None: one per core."""
    say: Callable[[str, int, int], None] = lambda *_: None
    """Called with phase, done and total."""
    compiled: dict[str, Compiled] = field(default_factory=dict)
    """By signature."""
    loaded: set[str] = field(default_factory=set)
    """Signatures of the kernels loaded on the chip."""
    tuned: list[Tuned] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    operator_of: dict[str, str] = field(default_factory=dict)
    """Kernel → operator."""
    spent: dict[str, float] = field(default_factory=dict)
    """Seconds by phase."""

    def run(self, operations: Sequence[Operation]) -> Report:
        """Tune the kernels of the operations.

        Raises BudgetTooSmall if nothing could be timed, ChipFault if no operator reaches its kernel, NoSpace,
        DatabaseLocked. Keys tuned before an error are in the database."""
        began = time.monotonic()
        found, failed = self._timed("discover", lambda: discover(self.library, _shells(operations)))
        self.failed += failed
        if failed and not found:
            raise ChipFault(
                "no operator reached its kernel",
                why=f"{failed[0].call}: {failed[0].error}",
                hint="qualify the operators first, and tune only correct ones",
            )
        chosen, reused = self._representatives(found)
        untunable = sorted({la.name for _, la in found if la.tuner is not None and not la.key and len(la.configs) > 1})
        self._timed("compile", lambda: self._compile([la for _, la in chosen], began))
        self._timed("time", lambda: self._tune(operations, chosen))
        self._timed("reconcile", lambda: self._reconcile(operations, found))
        missing = self._borrow(chosen)
        if not self.tuned and not reused and chosen:
            raise self._too_small()
        self._timed("complete", lambda: self._complete(operations))
        kernels, events = self._timed("verify", lambda: self._verify(operations))
        return Report(
            tuned=tuple(self.tuned),
            reused=reused,
            missing=tuple(missing),
            untunable=tuple(untunable),
            failed=tuple(dict.fromkeys(self.failed)),
            compiled=sum(not c.error for c in self.compiled.values()),
            compile_failures={s: c.error for s, c in self.compiled.items() if c.error and not c.left_to_chip},
            kernels=tuple(sorted(kernels)),
            tuning_events=events,
            seconds={**self.spent, "all": time.monotonic() - began},
        )

    def _timed(self, phase: str, work: Callable[[], T]) -> T:
        began = time.monotonic()
        result = work()
        self.spent[phase] = time.monotonic() - began
        return result

    def _representatives(self, found: Sequence[tuple[int, Launch]]) -> tuple[list[tuple[int, Launch]], int]:
        """The largest call of each key to tune, ordered by size; and the number of keys already tuned.

        The largest, because a key that rounds sizes up must suit all of them, and because its sizes are multiples of
        what Triton specialises on, so that one compiled kernel serves many keys."""
        best: dict[tuple[str, Key], tuple[int, Launch]] = {}
        for index, launch in found:
            if launch.tuner is None or not launch.key:
                continue
            name = (launch.tuner.config_table_name, launch.key)
            if name not in best or launch.elements > best[name][1].elements:
                best[name] = (index, launch)
        todo = [(i, la) for i, la in best.values() if not self._settled(la)]
        return sorted(todo, key=lambda pair: pair[1].elements), len(best) - len(todo)

    def _settled(self, launch: Launch) -> bool:
        state = self.journal.states.get((launch.tuner.config_table_name, repr(launch.key)), "tuned")
        return state == "tuned" and launch.key in launch.tuner.cache

    def _compile(self, launches: Sequence[Launch], began: float) -> None:
        known = self.journal.crashed
        jobs = compilations(launches, lambda la: [c for c in la.configs if (*names_of(la), str(c)) not in known])
        share = began + COMPILE_SHARE * (self.deadline - began) if self.deadline < math.inf else math.inf
        self._compile_jobs(jobs, share)

    def _compile_jobs(self, jobs: Sequence[candidates.Compilation], deadline: float) -> None:
        jobs = [job for job in jobs if job.signature not in self.compiled]
        count = 0

        def done(result: Compiled) -> None:
            nonlocal count
            count += 1
            if "No space left on device" in result.error:
                raise NoSpace(
                    "no space left for compiled kernels",
                    why=result.error,
                    hint="free some space and run the same command again: compiled kernels and timings are kept",
                )
            self.compiled[jobs[result.index].signature] = result
            self.say("compile", count, len(jobs))

        compile_all(jobs, self.library.target(), width=self.width, deadline=deadline, done=done)

    def _tune(self, operations: Sequence[Operation], chosen: Sequence[tuple[int, Launch]]) -> None:
        waiting = {(id(la.tuner), la.key): la for _, la in chosen}
        for index, launch in chosen:
            self.operator_of[launch.name] = operations[index].operator
        self._with_real_arguments(operations, chosen, waiting, self._tune_key)

    def _with_real_arguments(
        self,
        operations: Sequence[Operation],
        chosen: Sequence[tuple[int, Launch]],
        waiting: dict[tuple[int, Key], Launch],
        work: Callable[[Launch, Args, Kwargs], None],
    ) -> None:
        """Run the chosen operations until the deadline; calls `work` with each launch in `waiting` as it occurs."""
        original = self.library.tuner_class.run
        total = len(waiting)

        def run(tuner: Any, *args: Any, **kwargs: Any) -> Any:
            if len(tuner.configs) > 1:
                launch = waiting.pop((id(tuner), key_of(tuner, args, kwargs)), None)
                if launch is not None and time.monotonic() < self.deadline:
                    work(launch, args, kwargs)
                    self.say("time", total - len(waiting), total)
                if launch is not None and launch.key not in tuner.cache:
                    raise _Unsettled
            return original(tuner, *args, **kwargs)

        def bypass(entry: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
            return entry.fn.run(*args, **kwargs), {}

        with patched(self.library.tuner_class, "run", run), patched(self.library.entry_class, "run", bypass):
            for index, launch in chosen:
                if time.monotonic() >= self.deadline:
                    return
                if (id(launch.tuner), launch.key) not in waiting:
                    continue
                try:
                    operations[index].run()
                except _Unsettled:
                    continue
                except KernelsError:
                    raise
                except Exception as error:
                    self._fail(operations[index], error)

    def _reconcile(self, operations: Sequence[Operation], found: Sequence[tuple[int, Launch]]) -> None:
        """Time the finalists of keys that cover several sizes at the smallest call too, and choose the candidate with
        the smallest worst-case ratio to the best at both."""
        smallest: dict[tuple[str, Key], tuple[int, Launch]] = {}
        largest: dict[tuple[str, Key], int] = {}
        for index, launch in found:
            if launch.tuner is None or (name := (launch.tuner.config_table_name, launch.key)) not in self.journal.close:
                continue
            largest[name] = max(largest.get(name, 0), launch.elements)
            if name not in smallest or launch.elements < smallest[name][1].elements:
                smallest[name] = (index, launch)
        several = {n: v for n, v in smallest.items() if v[1].elements < largest[n] and len(self.journal.close[n]) > 1}
        jobs = compilations([la for _, la in several.values()], lambda la: _among(la, self.journal.close[name_of(la)]))
        self._compile_jobs(jobs, self.deadline)
        waiting = {(id(la.tuner), la.key): la for _, la in several.values()}
        contest = self._contest()

        def choose(launch: Launch, args: Args, kwargs: Kwargs) -> None:
            launch.tuner.nargs = dict(zip(launch.tuner.arg_names, args, strict=False))
            at_largest = self.journal.close[name_of(launch)]
            ready = [c for c in _among(launch, at_largest) if (made := contest.made(launch, c)) and not made.error]
            if len(ready) < 2:
                return
            at_smallest = {text: timing[0] for text, timing in contest.replay(launch, ready, args, kwargs).items()}
            best = candidates.least_behind([{text: at_largest[text] for text in at_smallest}, at_smallest])
            config = next(c for c in ready if str(c) == best)
            database.write_config(self.library.model, launch.tuner.config_table_name, launch.key, config)
            self.journal.write("reconciled", launch.tuner.config_table_name, launch.key)
            self._amend(launch, best, at_largest[best], at_smallest[best])

        self._with_real_arguments(operations, list(several.values()), waiting, choose)

    def _amend(self, launch: Launch, config: str, ms: float, smallest_ms: float) -> None:
        for index, row in enumerate(self.tuned):
            if (row.kernel, row.key) == (launch.name, launch.key):
                self.tuned[index] = replace(row, config=config, ms=ms, smallest_ms=smallest_ms)

    def _contest(self) -> Contest:
        return Contest(
            library=self.library,
            timer=self.timer,
            journal=self.journal,
            compiled=self.compiled,
            loaded=self.loaded,
            deadline=self.deadline,
        )

    def _tune_key(self, launch: Launch, args: Args, kwargs: Kwargs) -> None:
        began = time.monotonic()
        won = self._contest().run(launch, args, kwargs)
        if won is None:
            return
        state = "partial" if won.partial else "tuned"
        spent = time.monotonic() - began
        self._finish(launch, won.config, won.ms, state, counts=won.counts, times=won.times, seconds=spent)

    def _finish(
        self,
        launch: Launch,
        config: str,
        ms: float,
        state: str,
        *,
        counts: tuple[int, int, int, int],
        times: dict[str, float],
        seconds: float,
    ) -> None:
        table = launch.tuner.config_table_name
        if state != "borrowed":
            self.journal.measured.setdefault(table, {})[launch.key] = times
        close = self.journal.close.get(name_of(launch), {})
        self.journal.write("end", table, launch.key, state=state, values=launch.key, times=_finite(times), close=close)
        compiled, out, screened, finals = counts
        self.tuned.append(
            Tuned(
                operator=self.operator_of.get(launch.name, ""),
                kernel=launch.name,
                key=launch.key,
                config=config,
                ms=ms,
                state=state,
                candidates=len(launch.configs),
                compiled=compiled,
                hopeless=out,
                screened=screened,
                finalists=finals,
                seconds=seconds,
            )
        )

    def _borrow(self, chosen: Sequence[tuple[int, Launch]]) -> list[str]:
        """Store the nearest key's choice for keys beyond the budget, so that serving does not tune them. Returns the
        keys that have no such neighbour."""
        missing = []
        for _, launch in chosen:
            if launch.key in launch.tuner.cache:
                continue
            table = launch.tuner.config_table_name
            past = {k: t for k, t in self.journal.measured.get(table, {}).items() if t}
            near = candidates.nearest(launch.key, list(past))
            texts = {str(config): config for config in launch.configs}
            usable = {} if near is None else {t: ms for t, ms in past[near].items() if t in texts and math.isfinite(ms)}
            if not usable:
                missing.append(f"{launch.name} {launch.key}")
                continue
            best = min(usable, key=usable.__getitem__)
            database.write_config(self.library.model, table, launch.key, texts[best])
            self._finish(launch, best, usable[best], "borrowed", counts=(0, 0, 0, 0), times={}, seconds=0.0)
        return missing

    def _too_small(self) -> BudgetTooSmall:
        made = [c.seconds for c in self.compiled.values() if not c.error]
        quickest = f"the fastest of {len(made)} candidates compiled in {min(made):.1f} s" if made else "none compiled"
        return BudgetTooSmall(
            "the budget is too small for one candidate",
            why=f"{quickest}, and none was timed before the budget ended",
            hint="allow more time, e.g. --budget 10m; compiled kernels are kept",
        )

    def _fail(self, operation: Operation, error: Exception) -> None:
        """Report the failure; re-raise it if the chip is lost, since everything after it would fail too."""
        if not self.timer.alive():
            raise error
        self.failed.append(Failure(operation.name, f"{type(error).__name__}: {error}"[:500]))

    def _complete(self, operations: Sequence[Operation]) -> None:
        """Compile what else the chosen configurations need: other specialisations, and kernels without candidates."""
        found, more = discover(self.library, _shells(operations), tuners=False)
        self.failed += more
        self._compile_jobs(compilations([la for _, la in found], lambda la: la.configs), math.inf)

    def _verify(self, operations: Sequence[Operation]) -> tuple[set[str], int]:
        """Run each operation for real, from database and cache. Returns the kernels used and the number of candidates
        that were still timed."""
        seen: set[str] = set()
        events = 0
        original = self.library.tuner_class._bench

        def bench(tuner: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal events
            events += 1
            return original(tuner, *args, **kwargs)

        with recording_kernels(self.library, seen), patched(self.library.tuner_class, "_bench", bench):
            for count, operation in enumerate(operations, 1):
                try:
                    operation.run()
                except Exception as error:
                    self._fail(operation, error)
                self.say("verify", count, len(operations))
        return seen, events


class _Unsettled(Exception):
    """Aborts an operator whose key has no choice (the budget ended, or no candidate runs), before FlagGems starts to
    tune. Never leaves this module."""


def _shells(operations: Sequence[Operation]) -> list[tuple[str, int, Callable[[], object]]]:
    return [(operation.name, operation.elements, operation.shell) for operation in operations]


def _among(launch: Launch, texts: Mapping[str, float]) -> list[Any]:
    return [config for config in launch.configs if str(config) in texts]


def _finite(times: Mapping[str, float]) -> dict[str, float]:
    return {text: ms for text, ms in times.items() if math.isfinite(ms)}
