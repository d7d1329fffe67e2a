"""Two sides that answered the same questions: difference, interval, test for a regression.

All scores and differences are fractions; a difference is candidate − baseline. Sources: Miller 2024,
arXiv 2411.00640 (paired and clustered standard error); Tango 1998, Statist. Med. 17:891 (score interval);
Bonett and Price 2012, J. Educ. Behav. Stat. 37:479 (added observations); Agresti, Categorical Data
Analysis §6.3 and §10.1 (Cochran-Mantel-Haenszel, McNemar).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc, ndtr, ndtri, stdtrit

__all__ = [
    "Interval",
    "Pairs",
    "Side",
    "difference",
    "holm",
    "interval",
    "mid_p",
    "regression_p",
    "regression_z",
    "standard_error",
    "tango",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Side:
    """One side's answers, summed for each question. Three arrays of shape (questions,).

    `count` is the number of repeats, `total` the sum of their scores, `squares` the sum of squared scores.
    """

    count: Ints
    total: Floats
    squares: Floats

    @property
    def mean(self) -> Floats:
        return self.total / self.count

    @property
    def within(self) -> Floats:
        """Sum of squared deviations of each question's answers from their mean."""
        return np.maximum(self.squares - self.total**2 / self.count, 0.0)


@dataclass(frozen=True)
class Pairs:
    """Both sides of one benchmark, question by question. `cluster` numbers the story of each question from 0."""

    baseline: Side
    candidate: Side
    cluster: Ints

    @property
    def n(self) -> int:
        return len(self.cluster)

    @property
    def clustered(self) -> bool:
        return int(self.cluster.max()) + 1 < self.n

    @property
    def differences(self) -> Floats:
        """Shape (questions,)."""
        return self.candidate.mean - self.baseline.mean

    @property
    def binary(self) -> bool:
        return all(np.array_equal(side.total, side.squares) for side in (self.baseline, self.candidate))

    @property
    def deterministic(self) -> bool:
        """Whether no side ever changed its answer: then repeats say nothing new and count as one."""
        return not (self.baseline.within.max() > 1e-12 or self.candidate.within.max() > 1e-12)


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


def difference(pairs: Pairs) -> float:
    return float(pairs.differences.mean())


def standard_error(pairs: Pairs) -> float:
    """Clustered standard error of the difference: SE² = g/(g−1) · Σ_c (Σ_{i∈c} (d_i − D))² / n², g clusters.

    Without clusters it is s_d/√n. It holds the noise of sampling answers and of drawing questions.
    """
    deviations = pairs.differences - difference(pairs)
    sums = np.bincount(pairs.cluster, weights=deviations)
    groups = len(sums)
    if groups < 2:
        return math.inf
    return float(math.sqrt(groups / (groups - 1) * float((sums**2).sum())) / pairs.n)


def interval(pairs: Pairs, *, alpha: float = 0.05) -> Interval:
    """The central 1 − 2α interval of the difference.

    One repeat (or repeats that never vary): Tango's score interval. Otherwise a t interval over clusters in
    which one more answer flips in each direction (Bonett and Price's added observations, carried over to
    repeats), so that few flips never look like certainty. Clusters only ever widen Tango's interval.
    """
    if not (pairs.binary and pairs.deterministic):
        return _t_interval(pairs, alpha)
    d = pairs.differences
    score = tango(gained=int((d > 0).sum()), lost=int((d < 0).sum()), n=pairs.n, alpha=alpha)
    if not pairs.clustered:
        return score
    clustered = _t_interval(pairs, alpha)
    return Interval(min(score.low, clustered.low), max(score.high, clustered.high))


def _t_interval(pairs: Pairs, alpha: float) -> Interval:
    mean, error = difference(pairs), standard_error(pairs)
    groups = int(pairs.cluster.max()) + 1
    flip = float(1 / min(pairs.baseline.count.max(), pairs.candidate.count.max())) if not pairs.deterministic else 1.0
    error = math.hypot(error, math.sqrt(2) * flip / pairs.n)
    half = float(stdtrit(max(groups - 1, 1), 1 - alpha)) * error
    return Interval(max(mean - half, -1.0), min(mean + half, 1.0))


def tango(*, gained: int, lost: int, n: int, alpha: float = 0.05) -> Interval:
    """Tango's score interval (level 1 − 2α) of (gained − lost)/n, by bisection. Honest when nothing flipped."""
    z2 = float(ndtri(1 - alpha)) ** 2

    def outside(delta: float) -> bool:
        # The nuisance is p = P(lost), at its maximum under gained − lost = delta: a quadratic's larger root.
        b = -gained - lost + (2 * n - gained + lost) * delta
        c = -lost * delta * (1 - delta)
        p = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * (2 * p + delta * (1 - delta))
        distance = gained - lost - n * delta
        return distance * distance > z2 * variance

    centre = (gained - lost) / n

    def edge(limit: float) -> float:
        inside, out = centre, limit
        for _ in range(60):
            middle = (inside + out) / 2
            inside, out = (inside, middle) if outside(middle) else (middle, out)
        return inside

    return Interval(edge(-1.0), edge(1.0))


def mid_p(*, gained: int, lost: int) -> float:
    """One-sided mid-p of McNemar's exact test for a regression: P(X > lost) + P(X = lost)/2, X ~ Bin(flips, ½)."""
    flips = gained + lost
    if flips == 0:
        return 0.5
    at_least = 1.0 if lost == 0 else float(bdtrc(lost - 1, flips, 0.5))
    more = float(bdtrc(lost, flips, 0.5)) if lost < flips else 0.0
    return (at_least + more) / 2


def regression_p(pairs: Pairs) -> float:
    """One-sided p-value of "the candidate is no worse, question by question".

    One repeat of right or wrong: McNemar's mid-p. Otherwise Cochran-Mantel-Haenszel stratified by question,
    without continuity correction, in the form that holds for partial scores as well: with N = K_A + K_B answers
    of total t and squared deviations S to a question, E = K_B·t/N and V = K_A·K_B·S/(N·(N−1)).
    """
    if pairs.binary and pairs.deterministic:
        d = pairs.differences
        return mid_p(gained=int((d > 0).sum()), lost=int((d < 0).sum()))
    return float(ndtr(regression_z(pairs)))


def regression_z(pairs: Pairs) -> float:
    """The signed square root of the CMH statistic; negative when the candidate is worse."""
    a, b = pairs.baseline, pairs.candidate
    count = a.count + b.count
    total = a.total + b.total
    spread = np.maximum(a.squares + b.squares - total**2 / count, 0.0)
    surplus = float((b.total - b.count * total / count).sum())
    variance = float((a.count * b.count * spread / (count * (count - 1))).sum())
    return surplus / math.sqrt(variance) if variance > 0 else 0.0


def holm(p_values: dict[str, float], *, alpha: float = 0.05) -> dict[str, bool]:
    """Which hypotheses Holm's step-down procedure rejects, at family-wise level α."""
    rejected = dict.fromkeys(p_values, False)
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        if p_values[name] > alpha / (len(p_values) - rank):
            break
        rejected[name] = True
    return rejected
