"""The harness protocol, its adapter for the table HARNESSES, and the limits for failing requests."""

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
    """Sends questions to an endpoint and grades the answers."""

    def evaluate(self, request: EvaluationRequest) -> Tally:
        """Get every answer requested, appending the missing ones to the samples file.

        A request that failed for good is an answer with `error` set. `watch` and `report` run on the calling thread.
        Raises SmokeFailed if too many requests failed to report a score; answers are kept, and the next evaluation
        repeats only failed requests.
        """
        ...


class Score(Protocol):
    """Scores both stacks on the benchmarks `names` with the harness's own questions."""

    def __call__(
        self, job: Job, context: Context, serve: Serve, names: Sequence[str]
    ) -> tuple[BenchmarkScore, ...]: ...


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A harness as an entry of HARNESSES. Exactly one of `make` and `score` is set."""

    make: Callable[[Mapping[str, str]], Harness] | None = None
    """Creates the harness from the environment. Its answers are compared for the verdict."""
    score: Score | None = None
    """For a harness with its own questions, which reports scores without answers: shown, but without a verdict."""
    refuse: Callable[[str, Benchmark], None] = lambda _name, _benchmark: None
    """Raises ConfigError for a benchmark (name, stanza) that it does not support."""
    lacking: Callable[[Mapping[str, str]], tuple[str, str] | None] = lambda _env: None
    """What this machine lacks, by the environment, and how to fix it; None if nothing."""
    outdated: Callable[[Command, Mapping[str, str]], tuple[str, str] | None] = lambda _command, _env: None
    """What is wrong with its program, by running it, and how to fix it. Called only if nothing is lacking."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Limits for failing requests."""

    backoff: Backoff = _BACKOFF
    """The pauses between attempts after a transport error or a retriable status."""
    request_seconds: float = 1800.0
    """The timeout of one request, in seconds, while it does not follow from the answers so far."""
    least_seconds: float = 120.0
    """Seconds that an answer may take beyond four times the slowest one so far: a busy machine may hold one up."""
    errors: float = 0.01
    """The fraction of the asks that may fail for good; two may in any case."""

    def allowed(self, asks: int) -> int:
        """How many of `asks` requests may fail for good."""
        return max(2, math.floor(self.errors * asks))


def forget_failures(path: Path, wanted: Container[Key] | None = None) -> None:
    """Remove failed requests, all or those `wanted`, from a samples file, so that they are sent again."""
    if not path.exists():
        return
    SampleWriter(path).close()  # repairs a truncated last line
    samples = read_samples(path)
    answered = [
        sample for sample in samples if sample.error is None or (wanted is not None and sample.key not in wanted)
    ]
    if len(answered) != len(samples):
        write_atomic(path, "".join(map(dump, answered)).encode())
