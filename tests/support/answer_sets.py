"""Answer sets made from numbers, for tests of what judges them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache

import numpy as np

from flagrelease.verdict.samples import Sample


@cache
def _prompt(question: str) -> str:
    return hashlib.sha256(question.encode()).hexdigest()


def sample(question: str = "q0", repeat: int = 0, correct: bool | float = True, **other: object) -> Sample:
    fields: dict[str, object] = {
        "benchmark": "mmlu",
        "subset": "law",
        "question_id": question,
        "prompt_sha256": _prompt(question),
        "repeat": repeat,
        "correct": correct,
        "answer": "A",
        "finish_reason": "stop",
        "completion_tokens": 12,
        "latency_s": 0.5,
        "error": None,
    }
    return Sample(**{**fields, **other})  # type: ignore[arg-type]


def answers(scores: Sequence[Sequence[bool | float]], benchmark: str = "mmlu", story: int = 1) -> list[Sample]:
    """One row of scores to a question, one column to a repeat; `story` questions in a row share a story."""
    return [
        sample(f"q{row // story}#{row % story}" if story > 1 else f"q{row}", repeat, score, benchmark=benchmark)
        for row, repeats in enumerate(scores)
        for repeat, score in enumerate(repeats)
    ]


def flipped(n: int, baseline: int, candidate: int, flips: int, benchmark: str) -> tuple[list[Sample], list[Sample]]:
    """Two sides with so many right answers of n, and so many questions on which they differ."""
    gained = (flips + candidate - baseline) // 2
    lost = gained - candidate + baseline
    both = baseline - lost
    before = [True] * both + [True] * lost + [False] * gained + [False] * (n - both - lost - gained)
    after = [True] * both + [False] * lost + [True] * gained + [False] * (n - both - lost - gained)
    return answers([[x] for x in before], benchmark), answers([[x] for x in after], benchmark)


def drawn(seed: int, p: np.ndarray, repeats: int) -> list[list[bool]]:
    """Right or wrong, drawn with each question's probability; shape (questions, repeats)."""
    draws: list[list[bool]] = (np.random.default_rng(seed).random((len(p), repeats)) < p[:, None]).tolist()
    return draws
