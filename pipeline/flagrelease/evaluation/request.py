"""The request for an evaluation that a harness receives, and its progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flagrelease.config.harness_names import DEFAULT_HARNESS, HarnessName
from flagrelease.evaluation.question import Question, Task
from flagrelease.verdict.samples import Key

__all__ = ["Ask", "Endpoint", "Evaluation", "EvaluationRequest", "Tally"]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible server."""

    base_url: str
    """The URL, ending in /v1."""
    model: str
    """The model's name at the server."""
    key: str = field(default="", repr=False)
    """The bearer token, never shown."""
    token_seconds: float = 0.0
    """Seconds a token under the evaluation's load, measured before; 0 if that is not known."""


@dataclass(frozen=True)
class Ask:
    """A request for one answer to a question."""

    question: Question
    """The question."""
    repeat: int
    """The number of the repeat, from 0."""

    def key(self, benchmark: str) -> Key:
        """The key of the answer in a samples file."""
        return benchmark, self.question.subset, self.question.id, self.repeat


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The answers to get. A group-sequential design sends several, for the same samples file."""

    benchmark: str
    """The benchmark's name in matrix.yaml."""
    task: Task
    """The benchmark's task."""
    asks: tuple[Ask, ...]
    """The answers to get, in order."""
    parameters: Mapping[str, Any]
    """Sampling parameters sent with every request."""
    concurrency: int
    """Requests in flight."""
    thinking: bool = False
    """Whether the model reasons before it answers."""
    harness: HarnessName = DEFAULT_HARNESS
    """The harness to use."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """The progress of an evaluation."""

    total: int
    """Answers to get."""
    done: int
    """Answers so far, earlier runs included."""
    score: float
    """The sum of the grades, each in [0, 1]."""
    errors: int
    """Answers that are failed requests."""
    truncated: int
    """Answers cut off at the token limit."""
    asked: int
    """Answers obtained by this process."""
    seconds: float
    """Seconds spent by this process."""
    silent: float = 0.0
    """Seconds that the server has owed a response."""

    @property
    def accuracy(self) -> float:
        """The mean grade so far, 0 before the first answer."""
        return self.score / self.done if self.done else 0.0


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """One evaluation of one endpoint."""

    endpoint: Endpoint
    """The server to ask."""
    evaluation: Evaluation
    """The answers to get."""
    into: Path
    """The samples file to append to."""
    watch: Callable[[], None] = lambda: None
    """Called about once a second, and at once after a failed request; an exception ends the evaluation."""
    report: Callable[[Tally], None] = lambda _tally: None
    """Called a few times a second."""
