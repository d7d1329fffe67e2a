"""Estimate the speed ratio of candidate and baseline from interleaved runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from flagrelease.errors import ComparisonRefused
from flagrelease.verdict.stats.paired import Interval

__all__ = ["FEWEST_RUNS", "Ratio", "ratio"]

FEWEST_RUNS = 3
"""The fewest runs of each side."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """The speed ratio."""

    ratio: float
    """candidate / baseline, above 1 if the candidate is faster."""
    bounds: Interval
    """Its 1 − 2α confidence interval."""
    runs: int
    """Runs of each side."""


def ratio(
    baseline: Sequence[float], candidate: Sequence[float], *, higher_is_better: bool = True, alpha: float = 0.05
) -> Ratio:
    """The ratio of geometric means of interleaved runs: baseline[i] and candidate[i] were measured one after the other.

    A t interval over the logarithms of the ratio of each pair, which cancels drift during the session (temperature,
    clocks, other load). For latencies (`higher_is_better=False`) it is baseline / candidate.

    Raises ComparisonRefused for fewer than 3 runs, for different numbers of runs, and for values that are not positive
    and finite.
    """
    if len(baseline) != len(candidate):
        raise ComparisonRefused(
            f"{len(baseline)} runs of the baseline, {len(candidate)} of the candidate",
            hint="interleave them: A B A B A B",
        )
    if len(baseline) < FEWEST_RUNS:
        raise ComparisonRefused(
            f"{len(baseline)} runs of each side are too few to estimate their spread",
            hint=f"measure at least {FEWEST_RUNS}",
        )
    a, b = np.asarray(baseline, dtype=float), np.asarray(candidate, dtype=float)
    for side, values in (("baseline", a), ("candidate", b)):
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise ComparisonRefused(f"the {side} has runs without a positive measurement", hint="see its log")
    logs = np.log(b / a) if higher_is_better else np.log(a / b)
    n = len(logs)
    mean = float(logs.mean())
    half = float(stdtrit(n - 1, 1 - alpha)) * float(logs.std(ddof=1)) / math.sqrt(n)
    return Ratio(ratio=math.exp(mean), bounds=Interval(math.exp(mean - half), math.exp(mean + half)), runs=n)
