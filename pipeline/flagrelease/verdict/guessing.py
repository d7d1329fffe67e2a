"""Detect baselines at the chance level, and measure how far two sides give the same answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flagrelease.verdict.types import ALPHA, Agreement

if TYPE_CHECKING:
    from flagrelease.verdict.samples import Sample

__all__ = ["agreement", "differing", "guessing"]


def guessing(score: float, n: int, chance: float) -> bool:
    """Whether a score over `n` questions is not significantly above the chance level (one-sided, 5 %)."""
    return chance > 0 and score <= chance + 1.645 * math.sqrt(chance * (1 - chance) / n)


def differing(before: Sequence[Sample], after: Sequence[Sample]) -> int:
    """The number of answers that differ, right or wrong; an error differs from every answer."""
    given = {sample.key: sample.answer for sample in before if sample.error is None}
    return sum(
        sample.error is not None or sample.key not in given or given[sample.key] != sample.answer for sample in after
    )


def agreement(*, differing: int, answers: int, alpha: float = ALPHA) -> Agreement:
    """The agreement with one-sided 1 − α bounds of the share that differs (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    same = answers - differing
    low = float(betaincinv(differing, same + 1, alpha)) if differing else 0.0
    high = float(betaincinv(differing + 1, same, 1 - alpha)) if same else 1.0
    return Agreement(differing=differing, answers=answers, alpha=alpha, bounds=(low, high))
