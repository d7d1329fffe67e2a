"""One evaluation of one endpoint, as a harness receives it, and its progress."""

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
