"""The types of an evaluation: question, reply, grade, task."""

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
    """One question, ready to be asked."""

    subset: str
    """The subject or part of the benchmark, `all` where there is only one."""
    id: str
    """Stable while the question's text is; STORY#NUMBER for questions that share a story."""
    messages: tuple[Message, ...]
    """The chat messages, each with role and content."""
    reference: Any
    """The input of the task's grader; never sent to the endpoint."""

    @cached_property
    def prompt_sha256(self) -> str:
        """The sha256 (hex) of the messages in canonical form: equal prompts, equal digest."""
        return hashlib.sha256(msgspec.json.encode(self.messages, order="deterministic")).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The reply of the endpoint."""

    text: str
    """The text without thinking."""
    finish_reason: str | None
    """As the endpoint reports it: `stop`, `length`, …"""
    completion_tokens: int | None
    """Tokens generated, thinking included."""
    letters: Mapping[str, float] | None = None
    """The log-probability of each answer letter as the first token, for tasks scored by letter."""


@dataclass(frozen=True)
class Grade:
    """The grade of a reply."""

    correct: bool | float
    """True or false, or a partial score in [0, 1]."""
    answer: str | None
    """The answer extracted from the reply, None if there is none."""


def never_by_chance(_question: Question) -> float:
    """The chance level of free text. Not a lambda, because tasks are pickled for the grading process."""
    return 0.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """A kind of benchmark: how its data is read and its answers are graded."""

    name: str
    """The name in matrix.yaml."""
    read: Callable[[DataSet, int], Sequence[Question]]
    """All questions of a data set, with the given number of shots. Raises ConfigError for data of another kind."""
    grade: Callable[[Question, Reply], Grade]
    """Grades a reply."""
    scoring: Literal["letter", "text"] = "text"
    """`letter`: the first token's log-probability among the choices (1 token, temperature 0); `text`: a full reply."""
    longest: int | None = None
    """The most tokens of an answer without thinking: a longer reply is wrong whatever follows, and is cut off there."""
    slow: bool = False
    """Whether grading may take long (symbolic algebra), so that it runs in a separate process."""
    needs: tuple[str, ...] = ()
    """The modules that the grader imports."""
    guess: Callable[[Question], float] = never_by_chance
    """The chance level: the probability of answering the question right by guessing."""


def stable_id(*parts: str) -> str:
    """An id derived from a question's text, for data without ids."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
