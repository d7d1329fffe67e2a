"""Estimate the speed ratio of candidate and baseline from pairs of runs, clustered by the start of their servers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from flagrelease.errors import ComparisonRefused
from flagrelease.verdict.stats.paired import Interval

__all__ = ["ALPHA", "FEWEST_STARTS", "Ratio", "centre", "looks", "ratio"]

FEWEST_STARTS = 3
"""The fewest starts of each side."""

ALPHA = 0.05
"""The error rate of each bound over all looks."""

_FIRST = 0.4
"""The share of ALPHA of the first look."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """The speed ratio."""

    ratio: float
    """candidate / baseline, above 1 if the candidate is faster."""
    bounds: Interval
    """Its 1 − 2α confidence interval."""
    runs: int
    """Runs of each side."""
    starts: int
    """Starts of each side's server."""


def ratio(
    baseline: Sequence[float],
    candidate: Sequence[float],
    *,
    starts: Sequence[int] | None = None,
    higher_is_better: bool = True,
    alpha: float = 0.05,
) -> Ratio:
    """The ratio of the speeds of pairs of runs: baseline[i] and candidate[i] were measured one after the other, on
    servers of start starts[i]. Without `starts`, each pair has its own start.

    The pairs of a start are reduced to their `centre`. The interval is a t interval over the centres of the starts, so
    that it contains what differs from start to start as well as what is left of the noise within a start. For latencies
    (`higher_is_better=False`) the ratio is baseline / candidate.

    Raises ComparisonRefused for fewer than 3 starts, for different numbers of runs, and for values that are not
    positive and finite.
    """
    if len(baseline) != len(candidate):
        raise ComparisonRefused(
            f"{len(baseline)} runs of the baseline, {len(candidate)} of the candidate",
            hint="interleave them: A B A B A B",
        )
    clusters = list(range(len(baseline)) if starts is None else starts)
    if len(set(clusters)) < FEWEST_STARTS:
        raise ComparisonRefused(
            f"{len(baseline)} runs in {len(set(clusters))} starts of each side are too few to estimate their spread",
            hint=f"start each side at least {FEWEST_STARTS} times",
        )
    a, b = np.asarray(baseline, dtype=float), np.asarray(candidate, dtype=float)
    for side, values in (("baseline", a), ("candidate", b)):
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise ComparisonRefused(f"the {side} has runs without a positive measurement", hint="see its log")
    logs = np.log(b / a) if higher_is_better else np.log(a / b)
    by_start = np.asarray(clusters)
    centres = np.array([centre(logs[by_start == start]) for start in dict.fromkeys(clusters)])
    n, mean = len(centres), float(centres.mean())
    half = float(stdtrit(n - 1, 1 - alpha)) * float(centres.std(ddof=1)) / math.sqrt(n)
    bounds = Interval(math.exp(mean - half), math.exp(mean + half))
    return Ratio(ratio=math.exp(mean), bounds=bounds, runs=len(logs), starts=n)


def centre(values: NDArray[np.float64]) -> float:
    """The Hodges-Lehmann estimate: the median of the means of all pairs of values, each with itself included.

    It bears 29 % outliers, and is nearly as precise as the mean where there are none.
    """
    first, second = np.triu_indices(len(values))
    return float(np.median((values[first] + values[second]) / 2))


def looks() -> Iterator[tuple[int, float]]:
    """The numbers of starts after which the ratio is judged, and α of each bound then; without end.

    From the second look on each has half of the α that is left, so the sum of all stays below ALPHA however often a
    measurement is continued (Bonferroni; it needs no assumption on how the looks depend on each other). α is at most
    0.02, so each interval has a level of at least 95 %. The number of starts grows by a half.
    """
    starts = FEWEST_STARTS
    yield starts, _FIRST * ALPHA
    for number in itertools.count(1):
        starts += math.ceil(starts / 2)
        yield starts, (1 - _FIRST) * ALPHA / 2**number
