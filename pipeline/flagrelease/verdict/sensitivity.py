"""Whether an evaluation could have shown a loss: the baseline's score above chance, and sides without answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flagrelease.verdict.samples import Sample

__all__ = ["above_chance", "independent", "silent_sides"]

_Z = 1.6448536269514722  # one-sided 5 %


def above_chance(score: float, n: float, chance: float) -> tuple[float, float]:
    """Lower and upper confidence bound (one-sided 5 % each) of the baseline's true score − the chance level.

    Wilson's score interval of a proportion of `n` independent answers. It is conservative for scores between 0 and 1
    and for questions that differ in difficulty, since both have a smaller variance than a proportion.
    """
    z2 = _Z**2
    centre = (score + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(score * (1 - score) / n + z2 / (4 * n**2))
    return max(centre - half, 0.0) - chance, min(centre + half, 1.0) - chance


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
