"""Judge speed at one load point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flagrelease.verdict import rule, wording
from flagrelease.verdict.types import ALPHA, Verdict

__all__ = ["SpeedVerdict", "speed", "speed_so_far"]


@dataclass(frozen=True, kw_only=True)
class SpeedVerdict:
    """The verdict on speed at one load point."""

    ratio: float
    """candidate / baseline."""
    interval: tuple[float, float]
    """The 1 − 2α confidence interval of the ratio."""
    gate: float
    """The ratio that is required."""
    runs: int
    """Runs of each side."""
    starts: int
    """Starts of each side's server."""
    verdict: Verdict
    """The verdict."""
    reason: str
    """The reason, in words."""


def speed(
    baseline: Sequence[float],
    candidate: Sequence[float],
    *,
    starts: Sequence[int] | None = None,
    gate: float = 0.80,
    higher_is_better: bool = True,
    alpha: float = ALPHA,
) -> SpeedVerdict:
    """Judge pairs of runs at one load point by the interval of their ratio (`rule.decide_speed`). starts[i] is the
    start of the servers of pair i; by default each pair has its own. Raises ComparisonRefused for fewer than 3."""
    from flagrelease.verdict.stats.speed import ratio

    measured = ratio(baseline, candidate, starts=starts, higher_is_better=higher_is_better, alpha=alpha)
    interval = (measured.bounds.low, measured.bounds.high)
    verdict = rule.decide_speed(interval, gate)
    return SpeedVerdict(
        ratio=measured.ratio,
        interval=interval,
        gate=gate,
        runs=measured.runs,
        starts=measured.starts,
        verdict=verdict,
        reason=wording.speed_reason(verdict, interval, gate),
    )


def speed_so_far(
    baseline: Sequence[float], candidate: Sequence[float], *, starts: Sequence[int], gate: float = 0.80
) -> SpeedVerdict:
    """Judge a measurement that continues until it is decided: the first look that decides, or the last one so far.

    Looks are after the same numbers of starts whoever measured them and however often, so that neither an interrupted
    nor a repeated run adds to the error rate. `starts` is in the order of measurement. Raises ComparisonRefused for
    fewer than 3 starts.
    """
    from flagrelease.verdict.stats.speed import looks

    order = list(dict.fromkeys(starts))
    judged: SpeedVerdict | None = None
    for count, alpha in looks():
        if judged is not None and (count > len(order) or judged.verdict is not Verdict.INCONCLUSIVE):
            return judged
        pairs = [number for number, start in enumerate(starts) if start in order[:count]]
        sides = ([side[number] for number in pairs] for side in (baseline, candidate))
        judged = speed(*sides, starts=[starts[number] for number in pairs], gate=gate, alpha=alpha)
    raise AssertionError("looks have no end")
