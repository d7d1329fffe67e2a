"""Tasks with a short text as the answer, which the reply has to equal."""

from __future__ import annotations

from typing import Any

from flagrelease.errors import ConfigError
from flagrelease.evaluation.datasets import DataSet, Row
from flagrelease.evaluation.grading.text import plain
from flagrelease.evaluation.question import Grade, Message, Question, Reply, Task, stable_id

__all__ = ["EXACT"]

_TOKENS = 48


def read_exact(data: DataSet, shots: int) -> list[Question]:
    """Rows with `question`, `answer`, and optionally `subset` and `examples`, a list of rows with `question` and
    `answer`, which are asked as earlier turns of the chat."""
    questions = []
    for file in data.files:
        for number, row in enumerate(file.rows(), start=1):
            try:
                questions.append(_question(row, shots))
            except (KeyError, TypeError, ValueError) as error:
                raise ConfigError(
                    f"{file.name}, row {number}: not a question with an answer",
                    why=f"{type(error).__name__}: {error}",
                    hint="docs/evaluation.md describes the layout",
                ) from None
    return questions


def _question(row: Row, shots: int) -> Question:
    examples: list[Row] = list(row.get("examples") or ())[:shots]
    if len(examples) < shots:
        raise ValueError(f"it has {len(examples)} examples, {shots} shots need as many")
    messages: list[Message] = []
    for example in examples:
        messages += [_message("user", example["question"]), _message("assistant", example["answer"])]
    messages.append(_message("user", row["question"]))
    answer = str(row["answer"])
    if not plain(answer):
        raise ValueError("the answer is empty")
    return Question(
        subset=str(row.get("subset") or "all"),
        id=stable_id(*(message["content"] for message in messages)),
        messages=tuple(messages),
        reference=answer,
    )


def _message(role: str, content: Any) -> Message:
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"the text {content!r} is empty or not a text")
    return {"role": role, "content": content}


def grade_exact(question: Question, reply: Reply) -> Grade:
    """Right if reply and reference are equal as plain text."""
    answer = plain(reply.text)
    return Grade(answer == plain(question.reference), answer[:200] or None)


EXACT = Task(name="exact", read=read_exact, grade=grade_exact, longest=_TOKENS)
