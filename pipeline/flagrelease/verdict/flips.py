"""Find answers that differ, and questions whose majority answer changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flagrelease.verdict.samples import Sample

__all__ = ["differing", "flips"]


def differing(before: Sequence[Sample], after: Sequence[Sample]) -> int:
    """The number of answers that differ, right or wrong; a missing, failed or empty one agrees with none."""
    given = {sample.key: sample.answer for sample in before if sample.error is None}
    return sum(
        sample.error is not None or not sample.answer or given.get(sample.key) != sample.answer for sample in after
    )


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
