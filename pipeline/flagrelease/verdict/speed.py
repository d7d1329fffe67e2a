"""Judge speed at one load point."""

from __future__ import annotations

from collections.abc import Sequence

from flagrelease.verdict import rule, wording
from flagrelease.verdict.types import ALPHA, SpeedVerdict

__all__ = ["speed"]


def speed(
    baseline: Sequence[float],
    candidate: Sequence[float],
    *,
    gate: float = 0.80,
    higher_is_better: bool = True,
    alpha: float = ALPHA,
) -> SpeedVerdict:
    """Judge interleaved runs at one load point by the interval of their ratio (`rule.decide_speed`). Raises
    ComparisonRefused for fewer than 3 runs of each side."""
    from flagrelease.verdict.stats.speed import ratio

    measured = ratio(baseline, candidate, higher_is_better=higher_is_better, alpha=alpha)
    interval = (measured.bounds.low, measured.bounds.high)
    verdict = rule.decide_speed(interval, gate)
    return SpeedVerdict(
        ratio=measured.ratio,
        interval=interval,
        gate=gate,
        runs=measured.runs,
        verdict=verdict,
        reason=wording.speed_reason(verdict, interval, gate),
    )
