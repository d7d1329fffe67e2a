"""Choose the harness of each benchmark by its name in the matrix."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from flagrelease.config.cell import Cell
from flagrelease.config.harness_names import HarnessName
from flagrelease.config.matrix import Benchmark
from flagrelease.errors import EnvironmentFault
from flagrelease.evaluation import flageval_scores
from flagrelease.evaluation.harness import Adapter, Harness
from flagrelease.evaluation.harnesses import evalscope, own
from flagrelease.evaluation.request import EvaluationRequest, Tally

if TYPE_CHECKING:
    from flagrelease.contract.accuracy_results import BenchmarkScore
    from flagrelease.contract.context import Context
    from flagrelease.contract.job import Job
    from flagrelease.serving.servers import Serve

__all__ = ["HARNESSES", "Harnesses", "asked_here", "check", "chosen", "lacking", "outside_scores"]

HARNESSES: Mapping[HarnessName, Adapter] = {
    "own": own.ADAPTER,
    "evalscope": evalscope.ADAPTER,
    "flageval": flageval_scores.ADAPTER,
}


class Harnesses:
    """Dispatches each evaluation to the harness that it names, creating harnesses on first use."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self._env = os.environ if env is None else env
        self._made: dict[HarnessName, Harness] = {}

    def evaluate(self, request: EvaluationRequest) -> Tally:
        """See Harness.evaluate. Raises EnvironmentFault if the harness is not set up on this machine."""
        return self._harness(request.evaluation.harness).evaluate(request)

    def _harness(self, name: HarnessName) -> Harness:
        if name not in self._made:
            make = HARNESSES[name].make
            if make is None:
                raise ValueError(f"harness {name} cannot be given questions")
            _check_set_up(name, self._env)
            self._made[name] = make(self._env)
        return self._made[name]


def chosen(cell: Cell, benchmarks: Mapping[str, Benchmark]) -> dict[str, HarnessName]:
    """The harness of each benchmark in the cell's profile."""
    return {name: benchmarks[name].harness or cell.profile.harness for name in cell.profile.benchmarks}


def asked_here(cell: Cell, benchmarks: Mapping[str, Benchmark]) -> tuple[str, ...]:
    """The benchmarks whose questions come from our data and whose answers are compared for the verdict."""
    return tuple(name for name, harness in chosen(cell, benchmarks).items() if HARNESSES[harness].make is not None)


def outside_scores(job: Job, context: Context, serve: Serve) -> tuple[BenchmarkScore, ...]:
    """The scores of the other benchmarks, whose harness has its own questions."""
    scores: list[BenchmarkScore] = []
    wanted = chosen(job.cell, job.matrix.benchmarks)
    for harness, adapter in HARNESSES.items():
        names = [name for name in wanted if wanted[name] == harness]
        if names and adapter.score is not None:
            scores += adapter.score(job, context, serve, names)
    return tuple(scores)


def check(cell: Cell, benchmarks: Mapping[str, Benchmark], env: Mapping[str, str] | None = None) -> None:
    """Check the harnesses of a cell before anything is started.

    Raises ConfigError for a benchmark that its harness does not support, EnvironmentFault for a harness that is not
    set up.
    """
    for name, harness in chosen(cell, benchmarks).items():
        HARNESSES[harness].refuse(name, benchmarks[name])
        _check_set_up(harness, os.environ if env is None else env)


def lacking(name: HarnessName, env: Mapping[str, str]) -> tuple[str, str] | None:
    """What this machine lacks for a harness and how to fix it; None if it is set up."""
    return HARNESSES[name].lacking(env)


def _check_set_up(name: HarnessName, env: Mapping[str, str]) -> None:
    if missing := lacking(name, env):
        raise EnvironmentFault(f"harness {name} is not set up", why=missing[0], hint=missing[1])
