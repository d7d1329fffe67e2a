"""Build the EvalSpec of a benchmark: its questions, repeats and request parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flagrelease.config.cell import fingerprint
from flagrelease.config.engines import ENGINES
from flagrelease.config.harness_names import DEFAULT_HARNESS, HarnessName
from flagrelease.config.matrix import Benchmark, Model, Share
from flagrelease.errors import ConfigError
from flagrelease.evaluation.chat import concurrency, sampling_of
from flagrelease.evaluation.datasets import DataSet
from flagrelease.evaluation.question import Question, Task
from flagrelease.evaluation.request import Ask, Evaluation

__all__ = ["EvalSpec", "asks", "build_spec", "choose"]


@dataclass(frozen=True, kw_only=True)
class EvalSpec:
    """The evaluation of one benchmark at its maximum size."""

    benchmark: str
    """The name in matrix.yaml."""
    title: str
    """The title in matrix.yaml."""
    shots: int
    """Examples in each prompt."""
    evaluation: Evaluation
    """Every question and repeat, with the request parameters."""
    questions: tuple[Question, ...]
    """The chosen questions."""
    repeats: int
    """Answers to each question."""
    total: int
    """Questions of the complete benchmark."""
    margin: float
    """The non-inferiority margin, a fraction of 1."""
    data_sha256: str
    """The data's digest."""

    def metric(self, repeats: float) -> str:
        """The name of the score: `MMLU_5fewshot_@avg1`; `repeats` is rounded down."""
        return f"{self.title}_{self.shots}fewshot_@avg{max(int(repeats), 1)}"

    def partial(self, n: int) -> str:
        """`200 of 14,042 questions`, empty if `n` is all of them."""
        return f"{n:,} of {self.total:,} questions" if n < self.total else ""

    @property
    def chance(self) -> float:
        """The chance level: the expected score of guessing, 0 for free text."""
        return sum(self.evaluation.task.guess(question) for question in self.questions) / len(self.questions)

    @property
    def conditions(self) -> dict[str, Any]:
        """Everything except the server that the answers depend on."""
        prompts = sorted((question.subset, question.id, question.prompt_sha256) for question in self.questions)
        return {
            "benchmark": self.benchmark,
            "task": self.evaluation.task.name,
            "data": self.data_sha256,
            "prompts": fingerprint({"prompts": prompts}),
            "parameters": self.evaluation.parameters,
            "thinking": self.evaluation.thinking,
            "harness": self.evaluation.harness,
            "repeats": self.repeats,
        }


def build_spec(
    name: str,
    benchmark: Benchmark,
    task: Task,
    share: Share,
    data: DataSet,
    model: Model,
    harness: HarnessName = DEFAULT_HARNESS,
) -> EvalSpec:
    """Build the EvalSpec of one benchmark with its `task`, for `harness` unless the benchmark names another.

    Raises ConfigError for data that the task cannot read, or without questions.
    """
    available = task.read(data, benchmark.shots)
    questions = choose(name, available, share.limit)
    if not questions:
        raise ConfigError(f"benchmark {name} has no questions", why=f"{benchmark.data} contains none that can be asked")
    repeats = share.repeats or benchmark.repeats
    engine = ENGINES[model.serve.engine]
    parameters = sampling_of(task, model.sampling, engine)
    in_flight = concurrency(parameters, engine, model.serve.concurrency)
    if parameters["temperature"] == 0 and engine.batch_changes_answers:
        repeats = 1  # one request at a time is deterministic: a repeat would be the same answer
    return EvalSpec(
        benchmark=name,
        title=benchmark.title,
        shots=benchmark.shots,
        evaluation=Evaluation(
            benchmark=name,
            task=task,
            asks=asks(questions, range(repeats)),
            parameters=parameters,
            concurrency=in_flight,
            thinking=model.sampling.thinking and task.scoring == "text",
            harness=benchmark.harness or harness,
        ),
        questions=questions,
        repeats=repeats,
        total=max(benchmark.total or 0, len(available)),
        margin=benchmark.margin,
        data_sha256=data.digest,
    )


def choose(benchmark: str, questions: Sequence[Question], limit: int | None) -> tuple[Question, ...]:
    """The first `limit` questions, or all, in an order fixed by the benchmark's name.

    The order is that of a hash, so it depends on neither the order of the data nor a random number generator.
    """

    def rank(question: Question) -> bytes:
        return hashlib.sha256(f"{benchmark}\0{question.subset}\0{question.id}".encode()).digest()

    ordered = sorted(questions, key=rank)
    return tuple(ordered if limit is None else ordered[:limit])


def asks(questions: Sequence[Question], repeats: Iterable[int]) -> tuple[Ask, ...]:
    """All questions of one repeat before those of the next, so that an interrupted run covers every question."""
    return tuple(Ask(question, repeat) for repeat in repeats for question in questions)
