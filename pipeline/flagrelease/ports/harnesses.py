"""Which harness asks a benchmark: chosen by its name in the matrix, made when it is first needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from flagrelease.cell import Cell
from flagrelease.errors import ConfigError, EnvironmentFault
from flagrelease.evaluation.tasks import task_named
from flagrelease.matrix import Benchmark, HarnessName
from flagrelease.ports.evalscope_program import PROGRAM
from flagrelease.ports.harness import Endpoint, Evaluation, Harness, Tally
from flagrelease.ports.harness_evalscope import EvalscopeHarness, refuse
from flagrelease.ports.harness_flageval import ENDPOINT, SERVICE, TOKEN
from flagrelease.ports.harness_own import OwnHarness

__all__ = ["Harnesses", "check", "chosen", "lacking"]


class Harnesses:
    """Hands each evaluation to the harness that it names."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self._env = os.environ if env is None else env
        self._made: dict[HarnessName, Harness] = {}

    def evaluate(
        self,
        endpoint: Endpoint,
        evaluation: Evaluation,
        into: Path,
        *,
        watch: Callable[[], None],
        report: Callable[[Tally], None],
    ) -> Tally:
        """See Harness.evaluate. Raises EnvironmentFault where the harness is not set up on this machine."""
        return self._harness(evaluation.harness).evaluate(endpoint, evaluation, into, watch=watch, report=report)

    def _harness(self, name: HarnessName) -> Harness:
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: HarnessName) -> Harness:
        if name == "own":
            return OwnHarness()
        if name == "flageval":
            raise ConfigError("FlagEval gives scores and no answers", why="it cannot be asked a question at a time")
        if missing := lacking(name, self._env):
            raise EnvironmentFault(f"harness {name} is not set up", why=missing[0], hint=missing[1])
        return EvalscopeHarness(self._env[PROGRAM])


def chosen(cell: Cell, benchmarks: Mapping[str, Benchmark]) -> dict[str, HarnessName]:
    """The harness of each benchmark in the cell's profile."""
    return {name: benchmarks[name].harness or cell.profile.harness for name in cell.profile.benchmarks}


def check(cell: Cell, benchmarks: Mapping[str, Benchmark], env: Mapping[str, str] | None = None) -> None:
    """Before anything is started: raises ConfigError for a task that its harness cannot ask, EnvironmentFault for a
    harness that is not set up."""
    for name, harness in chosen(cell, benchmarks).items():
        if harness == "evalscope":
            refuse(task_named(benchmarks[name].task, name), name)
            if "#" in benchmarks[name].data:
                raise ConfigError(
                    f"evalscope cannot ask {name}",
                    why="it reads its questions from files, and those of a zip are kept in memory only",
                    hint=f"set `harness: own` for {name}",
                )
        if missing := lacking(harness, os.environ if env is None else env):
            raise EnvironmentFault(f"harness {harness} is not set up", why=missing[0], hint=missing[1])


def lacking(name: HarnessName, env: Mapping[str, str]) -> tuple[str, str] | None:
    """What this machine lacks for a harness, and what to do about it."""
    if name == "evalscope":
        program = env.get(PROGRAM, "")
        if not program:
            return (
                f"{PROGRAM} is not set",
                f"install evalscope 1.14.1 in an environment of its own and set {PROGRAM} to the program",
            )
        if not Path(program).is_file():
            return f"{PROGRAM} names {program}, which is not there", f"set {PROGRAM} to the program `evalscope`"
    if name == "flageval":
        if not env.get(SERVICE):
            return f"{SERVICE} is not set", f"set {SERVICE} to the platform's URL; {TOKEN} is its key, where it has one"
        if not env.get(ENDPOINT):
            return (
                f"{ENDPOINT} is not set",
                f"set {ENDPOINT} to the URL at which the platform reaches this host's servers",
            )
    return None
