"""Whether an evaluation could have shown a loss: the baseline's score above chance, and sides without answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flagrelease.verdict.types import Z

if TYPE_CHECKING:
    from flagrelease.verdict.samples import Sample

__all__ = ["above_chance", "independent", "silent_sides", "wilson"]


def wilson(score: float, n: float) -> tuple[float, float]:
    """The 90 % interval of a fraction `score` of `n` independent answers, so each bound is one-sided at 5 % (Wilson
    1927, J. Am. Stat. Assoc. 22:209).

    It is conservative for scores between 0 and 1 and for questions that differ in difficulty, since both have a smaller
    variance than a proportion.
    """
    square = Z * Z
    middle = (score + square / (2 * n)) / (1 + square / n)
    half = Z / (1 + square / n) * math.sqrt(score * (1 - score) / n + square / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def above_chance(score: float, n: float, chance: float) -> tuple[float, float]:
    """Lower and upper confidence bound (one-sided 5 % each) of the baseline's true score − the chance level, from the
    score of `n` independent answers."""
    low, high = wilson(score, n)
    return low - chance, high - chance


def independent(samples: Sequence[Sample], *, complete: bool) -> int:
    """The number of independent answers: all of them if the benchmark is asked completely, since its questions are then
    fixed and only the answers vary. Otherwise the number of questions, or of the stories that they share."""
    return len(samples) if complete else len({(sample.subset, sample.cluster) for sample in samples})


def silent_sides(baseline: Sequence[Sample], candidate: Sequence[Sample]) -> tuple[str, ...]:
    """The sides of which more than half of the answers are empty. A wrong answer without text that could be graded is
    empty; failed requests are counted separately."""
    sides = {"baseline": baseline, "candidate": candidate}
    return tuple(name for name, samples in sides.items() if 2 * sum(map(_empty, samples)) > len(samples))


def _empty(sample: Sample) -> bool:
    return sample.error is None and not sample.answer and not sample.correct
