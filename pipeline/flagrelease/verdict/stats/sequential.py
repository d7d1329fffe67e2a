"""The arithmetic of a sequential evaluation: what is asked at each stage, and what is known after it.

Why allocating by variance stays honest: a question that answered the same way a few times is asked less from then
on, so the plain mean of its answers would be biased towards what they said first (and a real loss would look
smaller than it is). Here every stage is an estimate of its own. Question i is expected μ_i times in it, where μ_i
depends on earlier stages only, and each of its answers counts 1/μ_i (Horvitz and Thompson 1952, J. Am. Stat. Assoc.
47:663). So each stage is unbiased for each question whatever went before, and so is their mean with weights that
are fixed before each stage. Questions stay independent of each other, which is what the standard error rests on.

Arrays have a leading axis of independent evaluations (one in production, thousands in a simulation).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from flagrelease.verdict import rule
from flagrelease.verdict.stats.paired import Floats, Ints
from flagrelease.verdict.stats.spending import CLOSEST, Walk
from flagrelease.verdict.types import BenchmarkEvidence, Ruling, Verdict

__all__ = ["CONTINUE", "FAIL", "PASS", "Allocation", "Estimate", "Look", "Monitor", "Progress", "allocate"]

CONTINUE, PASS, FAIL = 0, 1, -1

ALIKE = 0.5
_OPEN = 8.0  # a z-value that no look has to pass: spends 6e-16


@dataclass(frozen=True)
class Allocation:
    """One stage: `expected` and drawn `count` of pairs for each question (evaluations, questions); its `weight`."""

    expected: Floats
    count: Ints
    weight: Floats


def allocate(variance: Floats, pairs: Floats, start: Floats) -> Allocation:
    """Share `pairs` (evaluations,) among questions: half alike, half by the root of their variance (Neyman 1934).

    The half that is alike is a defence: a question that was always right so far is asked rarely by its variance,
    and a loss there would count for much when it shows and be missed until then. Drawn systematically from `start`
    in [0, 1), so that a question's count is its expectation rounded up or down. The weight is the stage's size
    times what the allocation gains over asking all questions alike.
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
    """The difference and its standard error, each (evaluations,), with the degrees of freedom of the latter."""

    difference: Floats
    error: Floats
    freedom: int


@dataclass(frozen=True)
class Progress:
    """What the stages so far have said. Arrays are (evaluations, questions), `weight` is (evaluations,).

    `asked` counts pairs, or the candidate's answers where the baseline is a `reference` that was answered before.
    `known` and `right` count the answers of both sides and sum their scores; `signal` sums weighted estimates of
    the difference. `opened` (questions,) tells which questions are part of the estimate.
    """

    asked: Ints
    known: Ints
    right: Floats
    signal: Floats
    weight: Floats
    opened: NDArray[np.bool_]
    reference: bool = False

    @staticmethod
    def start(evaluations: int, questions: int) -> Progress:
        """Nothing is known; both sides will be asked."""
        shape = (evaluations, questions)
        count, score = np.zeros(shape, np.int64), np.zeros(shape)
        return Progress(count, count, score, score, np.zeros(evaluations), np.zeros(questions, np.bool_))

    @staticmethod
    def against(right: Floats, count: Ints) -> Progress:
        """The baseline is known from `count` answers to each question; only the candidate will be asked."""
        blank = np.zeros_like(right)
        opened = np.ones(right.shape[1], np.bool_)
        return Progress(np.zeros_like(count), count, right, blank, np.zeros(len(right)), opened, reference=True)

    @property
    def pairs(self) -> Floats:
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
        """Over the opened questions. `cluster` numbers their stories from 0.

        As in `paired.interval`, one more answer flips in each direction, so that few flips are no certainty. Hard and
        easy questions differ in variance, which leaves (Σv)²/Σv² of n degrees of freedom (Satterthwaite 1946): two
        thirds of them for p ~ Beta(0.6, 0.4). It matters below a hundred questions.
        """
        n = int(self.opened.sum())
        scores = self.signal[:, self.opened] * (n / self.weight)[:, None]
        difference = scores.mean(axis=1)
        deviation = scores - difference[:, None]
        inside = cluster[self.opened]
        if len(np.unique(inside)) < n:
            deviation = deviation @ (inside[:, None] == np.unique(inside)).astype(np.float64)
        groups = deviation.shape[1]
        spread = (deviation**2).sum(axis=1) * groups / max(groups - 1, 1)
        return Estimate(difference, np.sqrt(spread + 2 * (n / self.pairs) ** 2) / n, max(2 * (groups - 1) // 3, 1))


@dataclass(frozen=True)
class Look:
    """One look at each evaluation: what was known, what the rule said, and the information time."""

    evidence: tuple[BenchmarkEvidence, ...]
    rulings: tuple[Ruling, ...]
    time: Floats

    @property
    def decision(self) -> Ints:
        """The verdicts as numbers: PASS, FAIL or CONTINUE."""
        numbers = {Verdict.PASS: PASS, Verdict.FAIL: FAIL, Verdict.INCONCLUSIVE: CONTINUE}
        return np.array([numbers[ruling.verdict] for ruling in self.rulings], np.int64)


@dataclass(frozen=True)
class Monitor:
    """Two boundaries, one for each verdict, and how much of their α is spent. `margin` is a fraction.

    `information` is what the design plans for, 1/variance of the difference.
    """

    margin: float
    information: float
    alpha: float
    fail_alpha: float
    exponent: float
    passing: Walk
    failing: Walk

    def look(self, estimate: Estimate, last: NDArray[np.bool_]) -> tuple[Monitor, Look]:
        """Judge by the repeated confidence interval: it holds at every look (Jennison and Turnbull 2000, ch. 9).

        A look at less than 2 % more information spends nothing, and its interval is too wide to decide anything,
        unless it is the last.
        """
        reached = 1 / (estimate.error**2 * self.information)
        before = self.passing.time
        skipped = (reached < before + CLOSEST) & ~last
        time = np.maximum(reached, before + CLOSEST)
        now, then = (
            np.where(last, 1.0, np.minimum(time, 1.0)) ** self.exponent,
            np.minimum(before, 1.0) ** self.exponent,
        )
        pass_limit = self.passing.limit(time, self.alpha * (now - then))
        alike = self.passing is self.failing  # equal levels have spent alike: the costly part is done once
        fail_limit = pass_limit if alike else self.failing.limit(time, self.fail_alpha * (now - then))
        z_fail = _normal(-estimate.difference / estimate.error, estimate.freedom)
        p = self.fail_alpha * then + self.failing.above(time, z_fail * np.sqrt(time))
        passing = _keep(self.passing, self.passing.below(time, pass_limit), skipped)
        failing = passing if alike else _keep(self.failing, self.failing.below(time, fail_limit), skipped)
        after = replace(self, passing=passing, failing=failing)
        pass_limit, fail_limit = (np.where(skipped, _OPEN, limit) for limit in (pass_limit, fail_limit))
        low = np.maximum(estimate.difference - _student(pass_limit, estimate.freedom) * estimate.error, -1.0)
        high = np.minimum(estimate.difference + _student(fail_limit, estimate.freedom) * estimate.error, 1.0)
        evidence = tuple(
            BenchmarkEvidence(
                interval=(lower, upper), margin=self.margin, p_regression=p_regression, significant=significant
            )
            for lower, upper, p_regression, significant in zip(
                low.tolist(),
                high.tolist(),
                np.minimum(p, 1.0).tolist(),
                (z_fail > fail_limit).tolist(),
                strict=True,
            )
        )
        return after, Look(evidence, tuple(map(rule.decide, evidence)), reached)


def _keep(old: Walk, new: Walk, skipped: NDArray[np.bool_]) -> Walk:
    """`new`, but `old` for those that skipped the look."""
    if not skipped.any():
        return new
    place, mass = np.zeros_like(new.place), np.zeros_like(new.mass)
    width = old.place.shape[1]
    place[:, :width], mass[:, :width] = old.place, old.mass
    lane = skipped[:, None]
    return Walk(np.where(skipped, old.time, new.time), np.where(lane, place, new.place), np.where(lane, mass, new.mass))


def _normal(t: Floats, freedom: int) -> Floats:
    """The z-value with the tail of a t-value: the standard error is itself estimated."""
    tail = stdtr(freedom, -np.abs(t))
    return np.asarray(np.sign(t) * np.minimum(-ndtri(np.maximum(tail, 1e-300)), 37.0))


def _student(z: Floats, freedom: int) -> Floats:
    return np.asarray(-stdtrit(freedom, ndtr(-z)))
