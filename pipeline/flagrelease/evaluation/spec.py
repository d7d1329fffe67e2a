"""A benchmark as a cell is asked it: which questions, how often, with which parameters. Pure."""

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
    """What is asked of a benchmark at most. `title` and `shots` are the matrix's, `total` is the size of the whole
    benchmark, `data_sha256` its data's digest."""

    benchmark: str
    title: str
    shots: int
    evaluation: Evaluation
    questions: tuple[Question, ...]
    repeats: int
    total: int
    margin: float
    data_sha256: str

    def metric(self, repeats: float) -> str:
        """The one spelling of a score: `MMLU_5fewshot_@avg1`; of repeats only whole ones count."""
        return f"{self.title}_{self.shots}fewshot_@avg{max(int(repeats), 1)}"

    def partial(self, n: int) -> str:
        """`200 of 14,042 questions`, or nothing where `n` is all of them."""
        return f"{n:,} of {self.total:,} questions" if n < self.total else ""

    @property
    def chance(self) -> float:
        """The score of guessing; 0 where nothing can be guessed."""
        return sum(self.evaluation.task.guess(question) for question in self.questions) / len(self.questions)

    @property
    def conditions(self) -> dict[str, Any]:
        """Everything besides the server that the answers depend on."""
        prompts = sorted((one.subset, one.id, one.prompt_sha256) for one in self.questions)
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
    """The sheet of one benchmark, asked by `harness` unless it has its own. `task` is the benchmark's.

    Raises ConfigError for data that the task cannot read.
    """
    everything = task.read(data, benchmark.shots)
    questions = choose(name, everything, share.limit)
    if not questions:
        raise ConfigError(f"benchmark {name} has no questions", why=f"{benchmark.data} holds none that can be asked")
    repeats = share.repeats or benchmark.repeats
    engine = ENGINES[model.serve.engine]
    parameters = sampling_of(task, model.sampling, engine)
    at_once = concurrency(parameters, engine, model.serve.concurrency)
    if parameters["temperature"] == 0 and engine.batch_changes_answers:
        repeats = 1  # one at a time it is deterministic: asked again, it is the same answer, not another sample
    return EvalSpec(
        benchmark=name,
        title=benchmark.title,
        shots=benchmark.shots,
        evaluation=Evaluation(
            benchmark=name,
            task=task,
            asks=asks(questions, range(repeats)),
            parameters=parameters,
            concurrency=at_once,
            thinking=model.sampling.thinking and task.scoring == "text",
            harness=benchmark.harness or harness,
        ),
        questions=questions,
        repeats=repeats,
        total=max(benchmark.total or 0, len(everything)),
        margin=benchmark.margin,
        data_sha256=data.digest,
    )


def choose(benchmark: str, questions: Sequence[Question], limit: int | None) -> tuple[Question, ...]:
    """The first `limit` questions of a shuffle that the benchmark's name fixes, or all of them.

    The order is that of a hash, so it depends neither on the order of the data nor on a library's generator.
    """

    def place(question: Question) -> bytes:
        return hashlib.sha256(f"{benchmark}\0{question.subset}\0{question.id}".encode()).digest()

    ordered = sorted(questions, key=place)
    return tuple(ordered if limit is None else ordered[:limit])


def asks(questions: Sequence[Question], repeats: Iterable[int]) -> tuple[Ask, ...]:
    """Every question once before any of them twice, so that a run that is cut short has something of each."""
    return tuple(Ask(question, repeat) for repeat in repeats for question in questions)
