"""Baselines at the chance level: whether a score is one, and how far two sides give the same answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flagrelease.verdict.types import ALPHA, Agreement

if TYPE_CHECKING:
    from flagrelease.verdict.samples import Sample

__all__ = ["agreement", "differing", "guessing"]


def guessing(score: float, n: int, chance: float) -> bool:
    """Whether a score over `n` questions cannot be told from `chance`, the score of guessing (one-sided, 5 %)."""
    return chance > 0 and score <= chance + 1.645 * math.sqrt(chance * (1 - chance) / n)


def differing(before: Sequence[Sample], after: Sequence[Sample]) -> int:
    """How many answers are not the same, right or wrong; an error is no answer, and equals none."""
    given = {sample.key: sample.answer for sample in before if sample.error is None}
    return sum(one.error is not None or one.key not in given or given[one.key] != one.answer for one in after)


def agreement(*, differing: int, answers: int, alpha: float = ALPHA) -> Agreement:
    """With the one-sided 1 − α bounds of the share that differs (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    same = answers - differing
    low = float(betaincinv(differing, same + 1, alpha)) if differing else 0.0
    high = float(betaincinv(differing + 1, same, 1 - alpha)) if same else 1.0
    return Agreement(differing=differing, answers=answers, alpha=alpha, bounds=(low, high))
