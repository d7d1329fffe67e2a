"""Compare the candidates of one key: screen the promising ones, replay the finalists, store the best."""

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
"""Candidates screened between two looks at the clock."""
ROUNDS = (5, 40)
"""Replays of every finalist, then of those that are still close."""


@dataclass(frozen=True, kw_only=True)
class Won:
    """The best candidate and its milliseconds. `partial`: the budget ended first; `counts`: live, hopeless, screened,
    finalists; `times`: milliseconds of every candidate that was launched."""

    config: str
    ms: float
    partial: bool
    counts: tuple[int, int, int, int]
    times: dict[str, float]


@dataclass(kw_only=True)
class Contest:
    """`compiled` and `loaded` (signatures that the chip holds) belong to the session, and grow."""

    library: Library
    timer: Timer
    journal: Journal
    compiled: dict[str, Compiled]
    loaded: set[str]
    deadline: float

    def run(self, launch: Launch, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Won | None:
        """Nothing where no candidate runs. The journal says at each moment what is being launched."""
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
        by_text = {str(config): config for config in launch.configs}
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
        """The candidates worth launching, and infinity for those known not to run."""
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
                continue  # the budget for compiling ended before it
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
        """(p50, p20, p80) of each finalist; the second round is for those that the first left close."""
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
    """The tuner's own launch of one candidate, with all its hooks: what its `_bench` hands to a benchmarker."""
    handed: list[Callable[[], object]] = []

    def keep(call: Callable[[], object], quantiles: object = None) -> list[float]:  # noqa: ARG001 -- Triton's signature
        handed.append(call)
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
    return handed[0]
