"""The levels of a lineage's attempts, which share one α.

A lineage is what was built from the same software and judged on the same benchmark; `evaluation/attempts.py` says which
attempts belong to it. PASS at the k-th attempt has the level α_k, and all levels together are α: whatever the attempts
have in common, the probability that one of them passes at a loss of the margin is at most α (Bonferroni).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from flagrelease.verdict.types import ALPHA

if TYPE_CHECKING:
    from flagrelease.verdict.samples import Sample

__all__ = ["Attempt", "judged_answers", "level"]

FIRST = 0.9
"""The share of α that the first attempt has, since most lineages have no second one."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One judgement of a benchmark. Scores and differences are fractions."""

    number: int
    """In its lineage, from 1."""
    level: float
    """The one-sided level of PASS."""
    image: str
    """sha256:… of the image that was judged."""
    run: str
    """The id of the run that judged it first."""
    profile: str
    """The profile's name in matrix.yaml."""
    answers: int
    """Answers of the candidate."""
    difference: float
    """candidate − baseline."""
    interval90: tuple[float, float]
    """The 90 % confidence interval of the difference."""
    verdict: str
    """PASS, FAIL or INCONCLUSIVE."""
    judged: str
    """The digest (hex) of the design and the answers: an attempt with the same ones is this attempt, and costs no α."""


def level(number: int) -> float:
    """The one-sided level of PASS of attempt `number`: 90 % of α for the first, then half of what is left."""
    return ALPHA * FIRST if number == 1 else ALPHA * (1 - FIRST) / 2 ** (number - 1)


def judged_answers(design: object, baseline: Iterable[Sample], candidate: Iterable[Sample]) -> str:
    """The digest (hex) of what a verdict follows from: the design, and the score and state of each answer."""
    sides = [sorted(map(_seen, side)) for side in (baseline, candidate)]
    canonical = msgspec.json.encode([design, sides], order="deterministic")
    return hashlib.sha256(canonical).hexdigest()


def _seen(sample: Sample) -> tuple[object, ...]:
    truncated = sample.finish_reason == "length"
    return (*sample.key, float(sample.correct), sample.error is None, bool(sample.answer), truncated)
