"""Asking an endpoint questions: one small protocol. Each harness is in harness_NAME.py; harnesses.py chooses one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from flagrelease.evaluation.question import Question, Task
from flagrelease.matrix import HarnessName
from flagrelease.verdict.samples import Key

__all__ = ["Ask", "Endpoint", "Evaluation", "Harness", "Tally"]


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
    harness: HarnessName = "own"


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


class Harness(Protocol):
    def evaluate(
        self,
        endpoint: Endpoint,
        evaluation: Evaluation,
        into: Path,
        *,
        watch: Callable[[], None],
        report: Callable[[Tally], None],
    ) -> Tally:
        """Answer every ask, appending to the samples file `into` what is not there yet.

        A request that failed for good is an answer with `error` set. `watch` is called about once a second and
        at once after a failed request; what it raises ends the evaluation. `report` is called a few times a
        second. Both run on the calling thread. Raises SmokeFailed where more requests failed than says
        something about the model; what was answered is kept, and only failed requests are asked again next time.
        """
        ...
