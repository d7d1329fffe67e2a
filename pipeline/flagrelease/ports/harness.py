"""Asking an endpoint questions: one small protocol. Each harness is in harness_NAME.py; harnesses.py chooses one."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from flagrelease.evaluation.question import Question, Task
from flagrelease.files import write_atomic
from flagrelease.matrix import HarnessName
from flagrelease.verdict.samples import Key, SampleWriter, dump, read_samples

__all__ = ["Ask", "Endpoint", "Evaluation", "Harness", "Patience", "Tally", "forget_failures"]


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


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long failing requests are borne.

    A request is sent again after a transport error, 429 or 5xx until `patient_seconds` have passed and it was
    sent `attempts` times: at first after `first_seconds`, doubling up to `most_seconds`; Retry-After is honoured
    up to `told_seconds`. Up to `errors` of the asks (as a fraction, but two at least) may fail for good.
    """

    attempts: int = 3
    patient_seconds: float = 120.0
    first_seconds: float = 0.25
    most_seconds: float = 8.0
    told_seconds: float = 60.0
    request_seconds: float = 1800.0
    errors: float = 0.01

    def allowed(self, asks: int) -> int:
        return max(2, math.floor(self.errors * asks))

    def pause(self, attempt: int) -> float:
        """Seconds before attempt number `attempt` (from 1), with jitter so that workers do not march in step."""
        return min(self.most_seconds, self.first_seconds * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)


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
