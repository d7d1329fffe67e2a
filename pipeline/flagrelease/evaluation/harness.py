"""What a harness is: the protocol, and the adapter by which HARNESSES knows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from flagrelease.config.matrix import Benchmark
from flagrelease.evaluation.request import EvaluationRequest, Tally
from flagrelease.ports.retry import Backoff
from flagrelease.store.files import write_atomic
from flagrelease.verdict.samples import Key, SampleWriter, dump, read_samples

if TYPE_CHECKING:
    from flagrelease.contract.accuracy_results import BenchmarkScore
    from flagrelease.contract.context import Context
    from flagrelease.contract.job import Job
    from flagrelease.ports.command import Command
    from flagrelease.serving.servers import Serve

__all__ = [
    "Adapter",
    "Harness",
    "Patience",
    "Score",
    "forget_failures",
]

_BACKOFF = Backoff(first=0.25, most=8.0, budget=120.0, jitter=0.5, attempts=3)


class Harness(Protocol):
    def evaluate(self, request: EvaluationRequest) -> Tally:
        """Answer every ask, appending to the samples file what is not there yet.

        A request that failed for good is an answer with `error` set. `watch` and `report` run on the calling thread.
        Raises SmokeFailed where more requests failed than says something about the model; what was answered is kept,
        and only failed requests are asked again next time.
        """
        ...


class Score(Protocol):
    """Scores both stacks on the benchmarks `names`, whose questions are the harness's own."""

    def __call__(
        self, job: Job, context: Context, serve: Serve, names: Sequence[str]
    ) -> tuple[BenchmarkScore, ...]: ...


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A harness, and all in which it differs from the others. One of `make` and `score` is given."""

    make: Callable[[Mapping[str, str]], Harness] | None = None
    """Makes it, given the environment. Its answers are judged."""
    score: Score | None = None
    """For a harness with questions of its own, which tells scores and no answers: they are shown, never judged."""
    refuse: Callable[[str, Benchmark], None] = lambda _name, _benchmark: None
    """Raises ConfigError for a benchmark, given by name, that it cannot ask."""
    lacking: Callable[[Mapping[str, str]], tuple[str, str] | None] = lambda _env: None
    """What this machine lacks for it, given the environment, and what to do about it."""
    outdated: Callable[[Command, Mapping[str, str]], tuple[str, str] | None] = lambda _command, _env: None
    """What is wrong with its program, found by running it, and what to do about it. Only where nothing is lacking."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long failing requests are borne."""

    backoff: Backoff = _BACKOFF
    """When a request is sent again after a transport error or a status that is retriable."""
    request_seconds: float = 1800.0
    """The longest that one request may take."""
    errors: float = 0.01
    """The share of the asks that may fail for good; two may in any case."""

    def allowed(self, asks: int) -> int:
        return max(2, math.floor(self.errors * asks))


def forget_failures(path: Path, wanted: Container[Key] | None = None) -> None:
    """Take failed requests out of a samples file, all or those `wanted`, so that they are asked again: they were
    never answered."""
    if not path.exists():
        return
    SampleWriter(path).close()  # mends a line that was cut
    samples = read_samples(path)
    answered = [one for one in samples if one.error is None or (wanted is not None and one.key not in wanted)]
    if len(answered) != len(samples):
        write_atomic(path, "".join(map(dump, answered)).encode())
