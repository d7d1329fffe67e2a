"""Ask made-up questions of a loopback endpoint with the harness of flagrelease."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flagrelease.evaluation.harness import Patience
from flagrelease.evaluation.harnesses.own import OwnHarness
from flagrelease.evaluation.question import Question, Task
from flagrelease.evaluation.request import Endpoint, Evaluation, EvaluationRequest, Tally
from flagrelease.evaluation.spec import asks
from flagrelease.evaluation.tasks import TASKS
from flagrelease.ports.retry import Backoff
from flagrelease.verdict.samples import Sample, read_samples
from support.endpoints import Said, chat

QUICK = Patience(backoff=Backoff(first=0.01, most=0.05, budget=1.0, attempts=3), request_seconds=5.0)
INTEGER, LETTER = TASKS["integer"], TASKS["multiple-choice"]


def question(number: int, reference: Any = None) -> Question:
    messages = ({"role": "user", "content": f"question {number}"},)
    return Question(
        subset="all", id=f"q{number}", messages=messages, reference=number if reference is None else reference
    )


def evaluation(
    n: int,
    *,
    task: Task = INTEGER,
    repeats: int = 1,
    concurrency: int = 4,
    temperature: float = 0.0,
    thinking: bool = False,
) -> Evaluation:
    reference = ("ABCD", "B") if task is LETTER else None
    return Evaluation(
        benchmark="made-up",
        task=task,
        asks=asks([question(number, reference) for number in range(n)], range(repeats)),
        parameters={"temperature": temperature, "max_tokens": 16},
        concurrency=concurrency,
        thinking=thinking,
    )


def quiet() -> None:
    pass


def ask(
    base_url: str,
    what: Evaluation,
    into: Path,
    *,
    patience: Patience = QUICK,
    watch: Callable[[], None] = quiet,
    report: Callable[[Tally], None] = lambda _tally: None,
    token_seconds: float = 0.0,
) -> tuple[Tally, list[Sample]]:
    endpoint = Endpoint(base_url=base_url, model="m", token_seconds=token_seconds)
    tally = OwnHarness(patience).evaluate(
        EvaluationRequest(endpoint=endpoint, evaluation=what, into=into, watch=watch, report=report)
    )
    return tally, read_samples(into)


def echo(request: dict[str, Any], _n: int) -> Said:
    """Answers question N with N, but wrongly where N is a multiple of three."""
    number = int(request["messages"][-1]["content"].split()[-1])
    return chat(f"It is \\boxed{{{number + 1 if number % 3 == 0 else number}}}.")
