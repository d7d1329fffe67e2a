"""Statistics of paired answers: difference, confidence interval, test for a regression.

All scores and differences are fractions; a difference is candidate − baseline. Sources: Miller 2024,
arXiv 2411.00640 (paired and clustered standard error); Tango 1998, Statist. Med. 17:891 (score interval);
Bonett and Price 2012, J. Educ. Behav. Stat. 37:479 (added observations); Agresti, Categorical Data
Analysis §6.3 and §10.1 (Cochran-Mantel-Haenszel, McNemar).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
    "kept_error",
    "loss_error",
    "lower_bound",
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
    """Sums of one side's answers. Arrays are (questions,)."""

    count: Ints
    """Number of repeats."""
    total: Floats
    """Sum of their scores."""
    squares: Floats
    """Sum of their squared scores."""
    failed: Ints | None = None
    """Number of failed repeats, which score 0; None if there are none."""

    @property
    def mean(self) -> Floats:
        """Mean score of each question."""
        return self.total / self.count

    def with_failures_right(self) -> Side:
        """This side if all of its failed answers were right."""
        if self.failed is None:
            return self
        return Side(self.count, self.total + self.failed, self.squares + self.failed)

    @property
    def within(self) -> Floats:
        """Sum of squared deviations of each question's answers from their mean."""
        return np.maximum(self.squares - self.total**2 / self.count, 0.0)


@dataclass(frozen=True)
class Pairs:
    """Both sides of one benchmark, paired by question."""

    baseline: Side
    """The baseline's answers."""
    candidate: Side
    """The candidate's answers."""
    cluster: Ints
    """The number of each question's story, from 0; (questions,)."""

    @property
    def worst(self) -> Pairs:
        """The answers if all failed ones were in the candidate's disfavour."""
        return replace(self, baseline=self.baseline.with_failures_right())

    @property
    def best(self) -> Pairs:
        """The answers if all failed ones were in the candidate's favour."""
        return replace(self, candidate=self.candidate.with_failures_right())

    @property
    def n(self) -> int:
        """Number of questions."""
        return len(self.cluster)

    @property
    def clustered(self) -> bool:
        """Whether questions share stories."""
        return int(self.cluster.max()) + 1 < self.n

    @property
    def differences(self) -> Floats:
        """candidate − baseline for each question, (questions,)."""
        return self.candidate.mean - self.baseline.mean

    @property
    def binary(self) -> bool:
        """Whether all scores are 0 or 1."""
        return all(np.array_equal(side.total, side.squares) for side in (self.baseline, self.candidate))

    @property
    def deterministic(self) -> bool:
        """Whether the scores of repeats never differ: repeats then carry no information and count as one."""
        return not (self.baseline.within.max() > 1e-12 or self.candidate.within.max() > 1e-12)


@dataclass(frozen=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


def difference(pairs: Pairs) -> float:
    """Mean of candidate − baseline over questions."""
    return float(pairs.differences.mean())


def standard_error(pairs: Pairs) -> float:
    """Clustered standard error of the difference: SE² = g/(g−1) · Σ_c (Σ_{i∈c} (d_i − D))² / n², g clusters.

    Without clusters it is s_d/√n. It covers the noise of sampling answers and of drawing questions.
    """
    deviations = pairs.differences - difference(pairs)
    sums = np.bincount(pairs.cluster, weights=deviations)
    groups = len(sums)
    if groups < 2:
        return math.inf
    return float(math.sqrt(groups / (groups - 1) * float((sums**2).sum())) / pairs.n)


def interval(pairs: Pairs, *, alpha: float = 0.05) -> Interval:
    """The central 1 − 2α interval of the difference.

    For one repeat (or repeats that never vary) it is Tango's score interval. Otherwise it is a t interval over clusters
    with one more flipped answer in each direction (Bonett and Price's added observations, extended to repeats), so that
    few flips do not appear as certainty. Clusters can only widen Tango's interval.
    """
    if not (pairs.binary and pairs.deterministic):
        return _t_interval(pairs, alpha)
    d = pairs.differences
    score = tango(gained=int((d > 0).sum()), lost=int((d < 0).sum()), n=pairs.n, alpha=alpha)
    if not pairs.clustered:
        return score
    clustered = _t_interval(pairs, alpha)
    return Interval(min(score.low, clustered.low), max(score.high, clustered.high))


def lower_bound(
    pairs: Pairs, margin: float, population: int, *, alpha: float = 0.05, baseline_weight: float = 0.0
) -> float:
    """The lower bound of `interval`, for repeats with the standard error of `loss_error` and, for a kept baseline, that
    of `kept_error`."""
    low = interval(pairs, alpha=alpha).low
    if pairs.binary and pairs.deterministic:
        return low  # Tango's is a score interval: it has the variance of the loss that is tested
    groups = int(pairs.cluster.max()) + 1
    independent = pairs.n if pairs.n >= population else groups
    answers = float(min(pairs.baseline.count.sum(), pairs.candidate.count.sum()))
    wald = _wald_error(pairs)
    error = float(loss_error(wald, margin, questions=independent, answers=answers, population=population))
    if baseline_weight:
        error = float(kept_error(error, _sampling_error(pairs.baseline), baseline_weight))
    half = float(stdtrit(max(groups - 1, 1), 1 - alpha)) * error
    return max(min(low, difference(pairs) - half), -1.0)


def _sampling_error(side: Side) -> float:
    """The standard error of a side's score for its own questions; 0 if no question has two answers."""
    often = side.count > 1
    spread = side.within[often] / ((side.count[often] - 1) * side.count[often])
    return math.sqrt(float(spread.sum())) / len(side.count)


def _wald_error(pairs: Pairs) -> float:
    """The standard error with one more flipped answer in each direction."""
    flip = float(1 / min(pairs.baseline.count.max(), pairs.candidate.count.max())) if not pairs.deterministic else 1.0
    return math.hypot(standard_error(pairs), math.sqrt(2) * flip / pairs.n)


def _t_interval(pairs: Pairs, alpha: float) -> Interval:
    mean, error = difference(pairs), _wald_error(pairs)
    groups = int(pairs.cluster.max()) + 1
    half = float(stdtrit(max(groups - 1, 1), 1 - alpha)) * error
    return Interval(max(mean - half, -1.0), min(mean + half, 1.0))


def loss_error(
    error: Floats | float, margin: float, *, questions: float, answers: Floats | float, population: float
) -> Floats:
    """The standard error of the lower bound: Wald's `error`, extended to a loss of the margin that was not seen.

    Wald's is that of the losses that were seen. Under the hypothesis that is tested, a share of the questions equal to
    the margin may be lost altogether; these `questions` are a sample of the `population`, and whether they contain the
    lost ones is a further error, which takes the place of the flips that `error` has in addition to those seen. It is
    also at least that of a share of the `answers` which is lost.
    """
    loss, k = margin * (1 - margin), np.asarray(answers, np.float64)
    wald = np.asarray(error, np.float64) ** 2
    left_out = max(1 - questions / population, 0.0)
    extended = np.maximum(wald - 2 / k**2, 0.0) + loss * left_out / questions
    return np.asarray(np.sqrt(np.maximum(np.maximum(wald, extended), loss / k)))


def kept_error(error: Floats | float, baseline: Floats | float, weight: float) -> Floats:
    """The standard error of the bound of PASS against a kept baseline, whose own is `baseline`, a part of `error`.

    A baseline that is kept is drawn once for all cells and releases of its model. With the sum of squares, PASS has its
    level over all baselines that could have been drawn, but not with each of them. Here the standard errors themselves
    are added, the baseline's with a `weight`: the level then holds for every baseline whose score is not too low by
    more than weight·z of its standard errors.
    """
    total = np.asarray(error, np.float64)
    own = np.asarray(baseline, np.float64)
    candidate = np.sqrt(np.maximum(total**2 - own**2, 0.0))
    return np.asarray(np.maximum(total, candidate + weight * own))


def tango(*, gained: int, lost: int, n: int, alpha: float = 0.05) -> Interval:
    """Tango's score interval (level 1 − 2α) of (gained − lost)/n, by bisection. Valid without any flips."""
    z2 = float(ndtri(1 - alpha)) ** 2

    def outside(delta: float) -> bool:
        # The nuisance parameter p = P(lost) at its maximum likelihood under delta: a quadratic's larger root.
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
    """One-sided p-value of "the candidate is not worse on any question".

    For one repeat with binary scores it is McNemar's mid-p. Otherwise it is Cochran-Mantel-Haenszel stratified by
    question, without continuity correction, in a form that also holds for partial scores: for a question with
    N = K_A + K_B answers, total t and squared deviations S, E = K_B·t/N and V = K_A·K_B·S/(N·(N−1)).
    """
    if pairs.binary and pairs.deterministic:
        d = pairs.differences
        return mid_p(gained=int((d > 0).sum()), lost=int((d < 0).sum()))
    return float(ndtr(regression_z(pairs)))


def regression_z(pairs: Pairs) -> float:
    """The signed square root of the CMH statistic; negative if the candidate is worse."""
    a, b = pairs.baseline, pairs.candidate
    count = a.count + b.count
    total = a.total + b.total
    spread = np.maximum(a.squares + b.squares - total**2 / count, 0.0)
    surplus = float((b.total - b.count * total / count).sum())
    variance = float((a.count * b.count * spread / (count * (count - 1))).sum())
    return surplus / math.sqrt(variance) if variance > 0 else 0.0


def holm(p_values: dict[str, float], *, alpha: float = 0.05) -> dict[str, bool]:
    """The hypotheses that Holm's step-down procedure rejects at family-wise level α."""
    rejected = dict.fromkeys(p_values, False)
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        if p_values[name] > alpha / (len(p_values) - rank):
            break
        rejected[name] = True
    return rejected
