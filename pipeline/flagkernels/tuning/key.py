"""Tune one key: screen its candidates, replay the finalists, store the best."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flagkernels.tuning import candidates, database
from flagkernels.tuning.candidates import Key, Launch, signature_of
from flagkernels.tuning.capture import Library
from flagkernels.tuning.compile import Compiled
from flagkernels.tuning.journal import Journal
from flagkernels.tuning.timer import Timer, quantiles

__all__ = ["Contest", "Won", "launcher_of", "name_of", "names_of"]

CHUNK = 24
"""Candidates screened between checks of the deadline."""
ROUNDS = (5, 40)
"""Replays of every finalist, then of those that remain close."""


@dataclass(frozen=True, kw_only=True)
class Won:
    """The best candidate of a key."""

    config: str
    ms: float
    partial: bool
    """True if the budget ended before all candidates were timed."""
    counts: tuple[int, int, int, int]
    """Candidates: live, hopeless, screened, finalists."""
    times: dict[str, float]
    """Milliseconds of every launched candidate."""


@dataclass(kw_only=True)
class Contest:
    """Compares the candidates of a key. `compiled` and `loaded` are shared with the session and grow."""

    library: Library
    timer: Timer
    journal: Journal
    compiled: dict[str, Compiled]
    """By signature."""
    loaded: set[str]
    """Signatures of the kernels loaded on the chip."""
    deadline: float
    """time.monotonic() at which the budget ends."""

    def run(self, launch: Launch, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Won | None:
        """Time the candidates and store the best; None if none can run. The journal names a launch before it starts
        if the key crashed before."""
        tuner, table = launch.tuner, launch.tuner.config_table_name
        tuner.nargs = dict(zip(tuner.arg_names, args, strict=False))
        names = names_of(launch)
        careful = names in self.journal.suspects
        self.journal.write("begin", table, launch.key)
        past = self.journal.measured.setdefault(table, {})
        out = candidates.hopeless(launch.key, past)
        live, times = self._live(launch, out)
        for start in range(0, len(live), 1 if careful else CHUNK):
            some = live[start : start + (1 if careful else CHUNK)]
            if careful:
                self.journal.write("launch", table, launch.key, config=str(some[0]))
            times |= self._screen(launch, some, args, kwargs)
            if time.monotonic() >= self.deadline:
                break
        by_text: dict[str, Any] = {str(config): config for config in launch.configs}
        finals = candidates.finalists(times)
        if not finals:
            self.journal.write("end", table, launch.key, state="failed", values=launch.key, times={}, close={})
            return None
        exact = self.replay(launch, [by_text[text] for text in finals], args, kwargs)
        self.journal.close[name_of(launch)] = {text: timing[0] for text, timing in exact.items()}
        best = min(exact, key=lambda text: exact[text][0])
        timings = {text: (ms, ms, ms) for text, ms in times.items()} | exact
        database.write_benchmarks(
            self.library.model,
            tuner.benchmark_table_name,
            launch.key,
            [(by_text[text], timing) for text, timing in timings.items()],
        )
        database.write_config(self.library.model, table, launch.key, by_text[best])
        screened = sum(math.isfinite(ms) for ms in times.values())
        partial = len(times) + len(out & by_text.keys()) < len(launch.configs)
        tuner.pre_hook({**tuner.nargs, **kwargs, **by_text[best].all_kwargs()}, reset_only=True)
        return Won(
            config=best,
            ms=exact[best][0],
            partial=partial,
            counts=(len(live), len(out & by_text.keys()), screened, len(finals)),
            times={text: timing[0] for text, timing in timings.items()},
        )

    def made(self, launch: Launch, config: Any) -> Compiled | None:
        return self.compiled.get(signature_of(launch, config))

    def _live(self, launch: Launch, out: set[str]) -> tuple[list[Any], dict[str, float]]:
        """The candidates to launch, and infinity for those known not to run."""
        live, times = [], {}
        for config in launch.configs:
            text = str(config)
            if text in out:
                continue
            if (*names_of(launch), text) in self.journal.crashed:
                times[text] = math.inf
                continue
            made = self.made(launch, config)
            if made is None:
                continue  # not compiled within the budget
            if made.left_to_chip:
                live.append(config)
            elif made.error or made.shared > self.library.shared_memory():
                times[text] = math.inf
            else:
                live.append(config)
        return live, times

    def _screen(
        self, launch: Launch, configs: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, float]:
        launchers = [launcher_of(launch.tuner, config, args, kwargs) for config in configs]
        signatures = [signature_of(launch, config) for config in configs]
        measured = self.timer.screen(launchers, fresh=[signature not in self.loaded for signature in signatures])
        self.loaded.update(signatures)
        return {str(config): ms for config, ms in zip(configs, measured, strict=True)}

    def replay(
        self,
        launch: Launch,
        configs: Sequence[Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> dict[str, tuple[float, float, float]]:
        """(p50, p20, p80) of each finalist; the second round only replays those that are close after the first."""
        launchers = {str(c): launcher_of(launch.tuner, c, args, kwargs) for c in configs}
        samples: dict[str, list[float]] = {text: [] for text in launchers}
        going = list(launchers)
        for rounds in ROUNDS:
            for text, times in zip(going, self.timer.replay([launchers[t] for t in going], rounds), strict=True):
                samples[text] += times
            going = candidates.survivors({text: quantiles(samples[text])[0] for text in going})
            if len(going) == 1 or time.monotonic() >= self.deadline:
                break
        return {text: quantiles(times) for text, times in samples.items()}


def name_of(launch: Launch) -> tuple[str, Key]:
    return launch.tuner.config_table_name, launch.key


def names_of(launch: Launch) -> tuple[str, str]:
    return launch.tuner.config_table_name, repr(launch.key)


def launcher_of(tuner: Any, config: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], object]:
    """The tuner's launch of one candidate with all its hooks, as its `_bench` passes it to a benchmarker."""
    launchers: list[Callable[[], object]] = []

    def keep(call: Callable[[], object], quantiles: object = None) -> list[float]:  # noqa: ARG001 -- Triton's signature
        launchers.append(call)
        return [math.inf] * 3

    before = tuner.__dict__.get("do_bench")
    tuner.__dict__["do_bench"] = keep
    try:
        tuner._bench(*args, config=config, **kwargs)
    finally:
        if before is None:
            del tuner.__dict__["do_bench"]
        else:
            tuner.__dict__["do_bench"] = before
    return launchers[0]
