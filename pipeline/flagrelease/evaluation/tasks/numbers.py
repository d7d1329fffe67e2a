"""Tasks with a number or a formula as the answer: AIME, GSM8K, MATH-500."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flagrelease.errors import ConfigError
from flagrelease.evaluation.datasets import DataSet, Row
from flagrelease.evaluation.grading.algebra import equal, says
from flagrelease.evaluation.grading.integers import integer
from flagrelease.evaluation.grading.text import boxed, marked
from flagrelease.evaluation.question import Grade, Question, Reply, Task, stable_id

__all__ = ["INTEGER", "MATH", "PROMPT"]

PROMPT = "{question}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."
_TEXT = ("problem", "question", "Question", "Problem")
_ANSWER = ("answer", "Answer", "solution")


def _field(row: Row, names: Sequence[str]) -> str:
    for name in names:
        if row.get(name) is not None:
            return str(row[name])
    raise ValueError(f"it has none of the columns {', '.join(names)}")


def _read(data: DataSet, shots: int) -> list[tuple[Row, str, str]]:
    """(row, question, answer) of every row."""
    if shots:
        raise ConfigError(f"benchmark {data.benchmark} is asked without examples", hint="set shots: 0")
    rows = []
    for file in data.files:
        for number, row in enumerate(file.rows(), start=1):
            try:
                rows.append((row, _field(row, _TEXT), _field(row, _ANSWER)))
            except ValueError as error:
                raise ConfigError(f"{file.name}, row {number}: not a question with an answer", why=str(error)) from None
    return rows


def _question(row: Row, text: str, reference: object, subset: str = "all") -> Question:
    return Question(
        subset=subset,
        id=str(row.get("unique_id") or stable_id(text)),
        messages=({"role": "user", "content": PROMPT.format(question=text)},),
        reference=reference,
    )


def read_integer(data: DataSet, shots: int) -> list[Question]:
    """Questions with answers such as `025`, `336^\\circ` or GSM8K's `… #### 1,234`."""
    questions = []
    for row, text, answer in _read(data, shots):
        number = re.search(r"-?\d+", answer.rpartition("####")[2].replace(",", ""))
        if number is None:
            raise ConfigError(f"benchmark {data.benchmark}: the answer {answer[:40]!r} is not an integer")
        questions.append(_question(row, text, int(number[0])))
    return questions


def grade_integer(question: Question, reply: Reply) -> Grade:
    answer = integer(reply.text)
    return Grade(answer == question.reference, None if answer is None else str(answer))


def read_math(data: DataSet, shots: int) -> list[Question]:
    return [
        _question(row, text, answer, str(row.get("subject") or "all").replace(" ", "_"))
        for row, text, answer in _read(data, shots)
    ]


def grade_math(question: Question, reply: Reply) -> Grade:
    """Grade the boxed or marked expression, or else the last expression of the text."""
    answer = boxed(reply.text) or marked(reply.text)
    if answer is not None:
        asked = " ".join(str(message["content"]) for message in question.messages)
        return Grade(equal(answer, question.reference, asked=asked), answer)
    lines = reply.text.strip().splitlines()
    return Grade(bool(lines) and says(reply.text, question.reference), lines[-1][:200] if lines else None)


INTEGER = Task(name="integer", read=read_integer, grade=grade_integer)
MATH = Task(name="math", read=read_math, grade=grade_math, slow=True, needs=("math_verify",))
