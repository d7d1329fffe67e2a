"""The words of an evaluation: question, reply, grade, task."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from flagrelease.evaluation.datasets import DataSet

__all__ = ["Grade", "Message", "Question", "Reply", "Task", "stable_id"]

Message = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question, ready to be asked.

    `id` is stable as long as the question's text is; where questions share a story it is STORY#NUMBER.
    `reference` is what the task's grader compares an answer with, and never leaves this process.
    """

    subset: str
    id: str
    messages: tuple[Message, ...]
    reference: Any

    @cached_property
    def prompt_sha256(self) -> str:
        """The sha256 (hex) of the messages in canonical form: equal prompts, equal digest."""
        return hashlib.sha256(msgspec.json.encode(self.messages, order="deterministic")).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the endpoint said. `text` has no thinking in it; `letters` maps an answer letter to its
    log-probability as the first token, where the task asked for that."""

    text: str
    finish_reason: str | None
    completion_tokens: int | None
    letters: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Grade:
    """`correct` is true or false, or a partial score in [0, 1]; `answer` what was read out of the reply."""

    correct: bool | float
    answer: str | None


def never_by_chance(_question: Question) -> float:
    """Of free text. A function with a name, because tasks are sent to the grading process."""
    return 0.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """How a kind of benchmark is read, asked and graded.

    `read` makes all questions of a data set, given the number of shots; it raises ConfigError for data of another kind.
    `scoring` is `letter` (the log-probability of the first token among the choices; one token, temperature 0) or `text`
    (a whole answer). `slow` marks graders that may take long (symbolic algebra): they run in a process of their own.
    `needs` names the modules that they import. `guess` is the chance of a question being answered right by guessing.
    """

    name: str
    read: Callable[[DataSet, int], Sequence[Question]]
    grade: Callable[[Question, Reply], Grade]
    scoring: Literal["letter", "text"] = "text"
    slow: bool = False
    needs: tuple[str, ...] = ()
    guess: Callable[[Question], float] = never_by_chance


def stable_id(*parts: str) -> str:
    """An id made of a question's own text, for data that has none."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
