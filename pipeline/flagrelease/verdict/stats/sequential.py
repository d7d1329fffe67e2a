"""The arithmetic of a sequential evaluation: allocation, estimate and boundaries of each stage.

Why allocation by variance is unbiased: a question with the same result a few times is asked less often afterwards, so
that the plain mean of its answers would be biased towards the first ones (and underestimate a real loss). Instead,
every stage is a separate estimate. Question i has the expected count μ_i, which depends on earlier stages only, and
each of its answers has the weight 1/μ_i (Horvitz and Thompson 1952, J. Am. Stat. Assoc. 47:663). So each stage is
unbiased for each question regardless of earlier stages, and so is their mean with weights that are fixed before each
stage. Questions stay independent of each other, as the standard error requires.

Arrays have a leading axis of independent evaluations (one in production, thousands in a simulation).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from flagrelease.verdict import rule
from flagrelease.verdict.stats.paired import Floats, Ints
from flagrelease.verdict.stats.spending import CLOSEST, Walk, share_spent
from flagrelease.verdict.types import ALPHA, BenchmarkEvidence, Ruling, Verdict

__all__ = ["CONTINUE", "FAIL", "PASS", "Allocation", "Estimate", "Look", "Monitor", "Progress", "allocate"]

CONTINUE, PASS, FAIL = 0, 1, -1

ALIKE = 0.5
"""The share of pairs that is allocated uniformly."""
_OPEN = 8.0  # the z-value of a boundary that is practically never crossed: spends 6e-16


@dataclass(frozen=True)
class Allocation:
    """The allocation of one stage."""

    expected: Floats
    """Expected pairs of each question, (evaluations, questions)."""
    count: Ints
    """Drawn pairs of each question, (evaluations, questions)."""
    weight: Floats
    """Of the stage's estimate, (evaluations,)."""


def allocate(variance: Floats, pairs: Floats, start: Floats) -> Allocation:
    """Allocate `pairs` (evaluations,) to questions: half uniformly, half by the root of their variance (Neyman 1934).

    The uniform half is a safeguard: by variance, a question that was always right so far is asked rarely, and a loss
    there would be missed for long and then have a large weight. Counts are drawn systematically from `start` in [0, 1),
    so that each is its expectation rounded up or down. The weight is the stage's size times the efficiency of the
    allocation relative to a uniform one.
    """
    questions = variance.shape[-1]
    root = np.sqrt(variance)
    share = (1 - ALIKE) * root / root.sum(axis=-1, keepdims=True) + ALIKE / questions
    expected = pairs[:, None] * share
    edges = np.floor(np.cumsum(expected, axis=-1) + start[:, None])
    count = np.diff(edges, axis=-1, prepend=np.floor(start)[:, None]).astype(np.int64)
    gain = questions * variance.sum(axis=-1) / (variance / share).sum(axis=-1)
    return Allocation(expected, count, pairs * gain)


@dataclass(frozen=True)
class Estimate:
    """The estimated difference."""

    difference: Floats
    """candidate − baseline, a fraction, (evaluations,)."""
    error: Floats
    """Its standard error, (evaluations,)."""
    freedom: int
    """Degrees of freedom of the standard error."""

    def lane(self, number: int) -> Estimate:
        """One of the evaluations."""
        one = slice(number, number + 1)
        return Estimate(self.difference[one], self.error[one], self.freedom)


@dataclass(frozen=True)
class Progress:
    """The results of the stages so far. Arrays are (evaluations, questions) unless noted."""

    asked: Ints
    """Pairs or, with a `reference`, the candidate's answers."""
    known: Ints
    """Answers of both sides."""
    right: Floats
    """Sum of their scores."""
    signal: Floats
    """Sum of weighted estimates of the difference."""
    weight: Floats
    """Sum of the weights, (evaluations,)."""
    opened: NDArray[np.bool_]
    """Whether a question is part of the estimate, (questions,)."""
    reference: bool = False
    """Whether the baseline was answered before."""

    @staticmethod
    def start(evaluations: int, questions: int) -> Progress:
        """No answers yet; both sides will be asked."""
        shape = (evaluations, questions)
        count, score = np.zeros(shape, np.int64), np.zeros(shape)
        return Progress(count, count, score, score, np.zeros(evaluations), np.zeros(questions, np.bool_))

    @staticmethod
    def against(right: Floats, count: Ints) -> Progress:
        """An earlier baseline with `count` answers to each question; only the candidate will be asked."""
        blank = np.zeros_like(right)
        opened = np.ones(right.shape[1], np.bool_)
        return Progress(np.zeros_like(count), count, right, blank, np.zeros(len(right)), opened, reference=True)

    @property
    def pairs(self) -> Floats:
        """The number of pairs, (evaluations,)."""
        return np.asarray(self.asked.sum(axis=1), dtype=np.float64)

    def variance(self) -> Floats:
        """Expected variance of one more estimate of the difference: E[p(1−p)], Jeffreys' prior, for each side asked."""
        right, wrong = self.right + 0.5, self.known - self.right + 0.5
        total = right + wrong
        return np.asarray((1 if self.reference else 2) * right * wrong / (total * (total + 1)))

    def breadth(self, chunk: NDArray[np.bool_], repeats: int, baseline: Floats, candidate: Floats) -> Progress:
        """Add questions that are asked for the first time, `repeats` pairs each; `chunk` (questions,) names them."""
        return replace(
            self,
            asked=self.asked + repeats * chunk,
            known=self.known + 2 * repeats * chunk,
            right=self.right + chunk * (baseline + candidate),
            signal=self.signal + chunk * (candidate - baseline),
            weight=self.weight + repeats * float(chunk.sum()),
            opened=self.opened | chunk,
        )

    def depth(self, stage: Allocation, baseline: Floats, candidate: Floats) -> Progress:
        """Add a stage that asked by variance. The scores are sums over the stage's answers; those of a reference
        are its mean score for each answer of the candidate."""
        # In `breadth`, a question's signal is a sum over its repeats; here it is a weight times an estimate.
        share = stage.weight[:, None] / self.asked.shape[1]
        return replace(
            self,
            asked=self.asked + stage.count,
            known=self.known + (1 if self.reference else 2) * stage.count,
            right=self.right + candidate + (0.0 if self.reference else baseline),
            signal=self.signal + share * (candidate - baseline) / stage.expected,
            weight=self.weight + stage.weight,
        )

    def estimate(self, cluster: Ints) -> Estimate:
        """Estimate the difference over the opened questions. `cluster` is the number of each question's story, from 0.

        As in `paired.interval`, one more answer flips in each direction, so that few flips do not appear as certainty.
        Questions differ in variance, which reduces n degrees of freedom to (Σv)²/Σv² (Satterthwaite 1946): two thirds
        for p ~ Beta(0.6, 0.4). This matters below a hundred questions.
        """
        n = int(self.opened.sum())
        scores = self.signal[:, self.opened] * (n / self.weight)[:, None]
        difference = scores.mean(axis=1)
        deviation = scores - difference[:, None]
        inside = cluster[self.opened]
        if len(np.unique(inside)) < n:
            deviation = deviation @ (inside[:, None] == np.unique(inside)).astype(np.float64)
        groups = deviation.shape[1]
        if groups < 2:  # one question or one story does not show how others vary
            return Estimate(difference, np.full_like(difference, np.inf), 1)
        spread = (deviation**2).sum(axis=1) * groups / (groups - 1)
        return Estimate(difference, np.sqrt(spread + 2 * (n / self.pairs) ** 2) / n, max(2 * (groups - 1) // 3, 1))


@dataclass(frozen=True)
class Look:
    """The result of one look (interim analysis), for each evaluation."""

    evidence: tuple[BenchmarkEvidence, ...]
    """The evidence."""
    rulings: tuple[Ruling, ...]
    """The rule's decisions on it."""
    time: Floats
    """The information time, (evaluations,)."""

    @property
    def decision(self) -> Ints:
        """The verdicts as numbers PASS, FAIL or CONTINUE, (evaluations,)."""
        numbers = {Verdict.PASS: PASS, Verdict.FAIL: FAIL, Verdict.INCONCLUSIVE: CONTINUE}
        return np.array([numbers[ruling.verdict] for ruling in self.rulings], np.int64)


@dataclass(frozen=True)
class Monitor:
    """The boundaries of PASS and FAIL, and the α spent so far."""

    margin: float
    """The non-inferiority margin, a fraction."""
    information: float
    """1/variance of the difference that the design plans for."""
    alpha: float
    """The one-sided level of PASS."""
    fail_alpha: float
    """The one-sided level of FAIL."""
    exponent: float
    """ρ of the spending function α·t^ρ."""
    passing: Walk
    """The walks below the boundary of PASS."""
    failing: Walk
    """The walks below the boundary of FAIL."""
    reserve: float = 0.0
    """The share of α that is spent beyond the planned information."""
    shown: Walk | None = None
    """The walks below the boundary of the interval that is shown, if PASS has a level other than ALPHA."""

    def look(
        self,
        estimate: Estimate,
        last: NDArray[np.bool_],
        *,
        worst: Estimate | None = None,
        best: Estimate | None = None,
        lower: Callable[[Floats], Floats] = lambda error: error,
        floor: Callable[[Floats], Floats] = lambda error: error,
    ) -> tuple[Monitor, Look]:
        """Judge by the repeated confidence interval, valid at every look (Jennison and Turnbull 2000, ch. 9).

        The lower bound is that of the `worst` estimate, in which failed answers count in the candidate's disfavour; the
        upper bound and the p-value are those of the `best`. Both are `estimate` by default. `lower` makes the
        standard error of the lower bound (`paired.loss_error`), and `floor` makes of that the one of the bound for PASS
        (`paired.kept_error`). The interval has the level 1 − 2·ALPHA; the bounds for PASS and FAIL have their own
        levels. A look with less than 2 % more information spends nothing and
        decides nothing, unless it is the `last`.
        """
        reached = 1 / (estimate.error**2 * self.information)
        before = self.passing.time
        skipped = (reached < before + CLOSEST) & ~last
        time = np.maximum(reached, before + CLOSEST)
        then = share_spent(before, self.exponent, self.reserve)
        now = np.where(last, 1.0, share_spent(time, self.exponent, self.reserve))
        pass_limit = self.passing.limit(time, self.alpha * (now - then))
        shown_limit = pass_limit if self.shown is None else self.shown.limit(time, ALPHA * (now - then))
        alike = self.passing is self.failing  # equal levels have spent the same: compute the costly part once
        fail_limit = pass_limit if alike else self.failing.limit(time, self.fail_alpha * (now - then))
        worst, best = worst or estimate, best or estimate
        z_fail = _normal(-best.difference / best.error, best.freedom)
        p = self.fail_alpha * then + self.failing.above(time, z_fail * np.sqrt(time))
        passing = _keep(self.passing, self.passing.below(time, pass_limit), skipped)
        failing = passing if alike else _keep(self.failing, self.failing.below(time, fail_limit), skipped)
        shown = self.shown and _keep(self.shown, self.shown.below(time, shown_limit), skipped)
        after = replace(self, passing=passing, failing=failing, shown=shown)
        pass_limit, fail_limit, shown_limit = (
            np.where(skipped, _OPEN, limit) for limit in (pass_limit, fail_limit, shown_limit)
        )
        error = lower(worst.error)
        low, least = (
            np.maximum(worst.difference - _student(limit, worst.freedom) * of, -1.0)
            for limit, of in ((shown_limit, error), (pass_limit, floor(error)))
        )
        high, ceiling = (
            np.minimum(best.difference + _student(limit, best.freedom) * best.error, 1.0)
            for limit in (shown_limit, fail_limit)
        )
        evidence = tuple(
            BenchmarkEvidence(
                interval=(at_least, at_most),
                floor=lowest,
                ceiling=most,
                margin=self.margin,
                p_regression=p_regression,
                significant=significant,
                above_chance=None,
            )
            for at_least, at_most, lowest, most, p_regression, significant in zip(
                low.tolist(),
                high.tolist(),
                least.tolist(),
                ceiling.tolist(),
                np.minimum(p, 1.0).tolist(),
                (z_fail > fail_limit).tolist(),
                strict=True,
            )
        )
        return after, Look(evidence, tuple(map(rule.decide, evidence)), reached)


def _keep(old: Walk, new: Walk, skipped: NDArray[np.bool_]) -> Walk:
    """`new`, except `old` for the evaluations that skipped the look."""
    if not skipped.any():
        return new
    place, mass = np.zeros_like(new.place), np.zeros_like(new.mass)
    width = old.place.shape[1]
    place[:, :width], mass[:, :width] = old.place, old.mass
    lane = skipped[:, None]
    return Walk(np.where(skipped, old.time, new.time), np.where(lane, place, new.place), np.where(lane, mass, new.mass))


def _normal(t: Floats, freedom: int) -> Floats:
    """The z-value with the tail probability of a t-value, since the standard error is estimated."""
    tail = stdtr(freedom, -np.abs(t))
    return np.asarray(np.sign(t) * np.minimum(-ndtri(np.maximum(tail, 1e-300)), 37.0))


def _student(z: Floats, freedom: int) -> Floats:
    return np.asarray(-stdtrit(freedom, ndtr(-z)))
