"""Grading in a separate process: a grader that hangs or dies costs one answer and leaves no process behind."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from flagrelease.errors import EnvironmentFault
from flagrelease.evaluation.grading.worker import GradingFailedError, GradingWorker
from flagrelease.evaluation.harnesses.own import OwnHarness
from flagrelease.evaluation.question import Grade, Question, Reply, Task
from flagrelease.evaluation.request import Endpoint, Evaluation, EvaluationRequest
from flagrelease.evaluation.spec import asks
from flagrelease.evaluation.tasks import TASKS
from flagrelease.verdict.samples import read_samples
from support.endpoints import Said, chat, serving


def never_read(_data: Any, _shots: int) -> list[Question]:
    raise AssertionError


def by_text(_question: Question, reply: Reply) -> Grade:
    if reply.text == "hang":
        time.sleep(60)
    if reply.text == "die":
        os._exit(3)
    if reply.text == "compute":
        while True:
            pass
    if reply.text == "memory":
        bytearray(8 << 30)
    if reply.text == "deep":
        return by_text(_question, reply)
    if reply.text == "defect":
        raise Unpicklable(1, 2)
    if reply.text == "fault":
        raise EnvironmentFault("grading needs something", hint="install it")
    return Grade(reply.text == "right", f"{os.getpid()}")


class Unpicklable(Exception):
    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


SLOW = Task(name="slow", read=never_read, grade=by_text, slow=True)
QUESTION = Question(subset="all", id="q", messages=(), reference=None)


def graded(*texts: str, seconds: float = 20.0, processor_seconds: float = 20.0) -> list[Grade | BaseException]:
    async def grade_all() -> list[Grade | BaseException]:
        with GradingWorker(SLOW, seconds=seconds, processor_seconds=processor_seconds) as grader:
            grades: list[Grade | BaseException] = []
            for text in texts:
                reply = Reply(text=text, finish_reason="stop", completion_tokens=1)
                try:
                    grades.append(await grader.grade(QUESTION, reply))
                except (GradingFailedError, EnvironmentFault) as error:
                    grades.append(error)
            return grades

    return asyncio.run(grade_all())


def test_grades_come_from_another_process() -> None:
    right, wrong = graded("right", "wrong")
    assert isinstance(right, Grade)
    assert isinstance(wrong, Grade)
    assert (right.correct, wrong.correct) == (True, False)
    assert right.answer == wrong.answer != str(os.getpid())


def test_a_grader_that_hangs_or_dies_costs_one_answer() -> None:
    hung, right, died, again = graded("hang", "right", "die", "right", seconds=8.0)
    assert "did not decide within 8 s" in str(hung)
    assert "process ended" in str(died)
    assert isinstance(right, Grade)
    assert isinstance(again, Grade)
    assert right.answer != again.answer


def test_a_reply_that_takes_a_grader_too_far_is_wrong() -> None:
    """Too much processor time, memory or depth follow from the reply, not from the machine."""
    *wrong, right = graded("memory", "deep", "compute", "right", processor_seconds=1.5)
    assert wrong == [Grade(False, None)] * 3
    assert isinstance(right, Grade)
    assert right.correct is True


def test_a_defect_of_the_grader_costs_one_answer() -> None:
    defect, right = graded("defect", "right")
    assert "Unpicklable: 1 and 2" in str(defect)
    assert isinstance(right, Grade)


def test_a_fault_in_the_grader_is_raised() -> None:
    (fault,) = graded("fault")
    assert isinstance(fault, EnvironmentFault)
    assert fault.hint == "install it"


def test_mathematics_is_graded_in_the_process(tmp_path: Path) -> None:
    pytest.importorskip("math_verify", reason="math-verify is not installed (flagrelease[eval])")
    questions = [
        Question(subset="all", id=f"q{n}", messages=({"role": "user", "content": f"{n}"},), reference="\\frac{1}{2}")
        for n in range(2)
    ]

    def answer(request: dict[str, Any], _n: int) -> Said:
        return chat("\\boxed{0.5}" if request["messages"][0]["content"] == "0" else "\\boxed{0.25}")

    evaluation = Evaluation(
        benchmark="math",
        task=TASKS["math"],
        asks=asks(questions, range(1)),
        parameters={"temperature": 0.0},
        concurrency=2,
    )
    with serving(answer) as server:
        endpoint = Endpoint(base_url=server.base_url, model="m")
        OwnHarness().evaluate(EvaluationRequest(endpoint=endpoint, evaluation=evaluation, into=tmp_path / "s.jsonl"))
    assert {one.question_id: one.correct for one in read_samples(tmp_path / "s.jsonl")} == {"q0": True, "q1": False}
