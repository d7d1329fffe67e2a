"""Asking an endpoint questions: one small protocol, and what a harness says of itself. Each is in harness_NAME.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flagrelease.config.matrix import DEFAULT_HARNESS, Benchmark, HarnessName
from flagrelease.evaluation.question import Question, Task
from flagrelease.ports.retry import Backoff
from flagrelease.store.files import write_atomic
from flagrelease.verdict.samples import Key, SampleWriter, dump, read_samples

if TYPE_CHECKING:
    from flagrelease.contract.context import Context
    from flagrelease.contract.job import Job
    from flagrelease.contract.results import BenchmarkScore
    from flagrelease.ports.command import Command
    from flagrelease.serving.servers import Serve

__all__ = [
    "Adapter",
    "Ask",
    "Endpoint",
    "Evaluation",
    "EvaluationRequest",
    "Harness",
    "Patience",
    "Score",
    "Tally",
    "forget_failures",
]

_BACKOFF = Backoff(first=0.25, most=8.0, budget=120.0, jitter=0.5, attempts=3)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible server. `base_url` ends in /v1; `key` is a bearer token, shown nowhere."""

    base_url: str
    model: str
    key: str = field(default="", repr=False)


@dataclass(frozen=True)
class Ask:
    """One question for the `repeat`-th time, from 0."""

    question: Question
    repeat: int

    def key(self, benchmark: str) -> Key:
        """What the answer is called in a samples file."""
        return benchmark, self.question.subset, self.question.id, self.repeat


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is to be answered. A sequential design sends several, for the same file of answers.

    `parameters` go into every request; `concurrency` is how many are in flight; `thinking` says that the model
    reasons before it answers; `harness` names what asks.
    """

    benchmark: str
    task: Task
    asks: tuple[Ask, ...]
    parameters: Mapping[str, Any]
    concurrency: int
    thinking: bool = False
    harness: HarnessName = DEFAULT_HARNESS


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How far an evaluation is. `score` sums grades in [0, 1]; `asked` and `seconds` are of this process alone."""

    total: int
    done: int
    score: float
    errors: int
    truncated: int
    asked: int
    seconds: float

    @property
    def accuracy(self) -> float:
        return self.score / self.done if self.done else 0.0


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """One evaluation of one endpoint."""

    endpoint: Endpoint
    evaluation: Evaluation
    into: Path
    """The samples file."""
    watch: Callable[[], None] = lambda: None
    """Called about once a second, and at once after a failed request; what it raises ends the evaluation."""
    report: Callable[[Tally], None] = lambda _tally: None
    """Called a few times a second."""


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

    label: str
    """What the card calls it."""
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
