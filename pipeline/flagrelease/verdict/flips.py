"""Find questions whose majority answer changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["flips"]


def flips(
    questions: Iterable[str], before: Sequence[float], after: Sequence[float]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The `questions` gained and those lost, by their mean scores `before` and `after`."""
    gained, lost = [], []
    for question, first, then in zip(questions, before, after, strict=True):
        if then >= 0.5 > first:
            gained.append(question)
        elif first >= 0.5 > then:
            lost.append(question)
    return tuple(gained), tuple(lost)
