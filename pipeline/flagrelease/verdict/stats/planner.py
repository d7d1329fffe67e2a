"""Plan an evaluation: the questions and repeats that a margin requires, and the power that they have.

A pair is one answer of each side to one question. If both sides are equal, the variance of its difference is 2·p(1−p)
on average over questions: 0.25 is a conservative guess; `pair_variance` estimates it from a baseline with repeats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from flagrelease.verdict.stats.design import GROWTH, Design
from flagrelease.verdict.stats.paired import Floats, Side, kept_error
from flagrelease.verdict.stats.spending import Characteristics, characteristics, endings, inflation

__all__ = ["GUESS", "FixedPlan", "Forecast", "Outlook", "expected", "forecast", "outlook", "pair_variance", "plan"]

GUESS = 0.25


@dataclass(frozen=True, kw_only=True)
class FixedPlan:
    """A fixed-sample evaluation."""

    questions: int
    """Questions that are asked; if not `enough`, the number that would be required at one repeat."""
    repeats: int
    """Answers of each side to each question."""
    margin: float
    """The non-inferiority margin, a fraction."""
    alpha: float
    """The one-sided level."""
    variance: float
    """Of the difference of one pair."""
    between: float
    """Of the true differences between questions."""
    enough: bool = True
    """False if no number of repeats reaches the power: too few questions for the variance between them."""

    @property
    def pairs(self) -> int:
        """Answers of each side."""
        return self.questions * self.repeats

    @property
    def error(self) -> float:
        """Standard error of the difference."""
        return math.sqrt((self.between + self.variance / self.repeats) / self.questions)

    @property
    def _quantile(self) -> float:
        return float(stdtrit(max(self.questions - 1, 1), 1 - self.alpha))

    def passes(self, drop: float) -> float:
        """Probability of PASS at a true loss of `drop` (a fraction)."""
        return float(ndtr((self.margin - drop) / self.error - self._quantile))

    def finds(self, drop: float) -> float:
        """Probability that a true loss of `drop` (a fraction) is significant."""
        return float(ndtr(drop / self.error - self._quantile))


def plan(
    *,
    margin: float,
    questions: int,
    variance: float = GUESS,
    between: float = 0.0,
    alpha: float = 0.05,
    power: float = 0.80,
) -> FixedPlan:
    """The smallest evaluation that has `power` to PASS at no loss: a part of the questions once each, if that suffices.

    `between` is the variance of true differences between questions, which repeats do not reduce; it is 0 for identical
    chips.
    """

    def largest_error(n: int) -> float:
        return margin / float(stdtrit(max(n - 1, 1), 1 - alpha) + ndtri(power))

    single = _smallest(lambda n: math.sqrt((between + variance) / n) <= largest_error(n))
    if single <= questions:
        return FixedPlan(questions=single, repeats=1, margin=margin, alpha=alpha, variance=variance, between=between)
    room = questions * largest_error(questions) ** 2 - between
    if room <= 0:
        return FixedPlan(
            questions=single, repeats=1, margin=margin, alpha=alpha, variance=variance, between=between, enough=False
        )
    repeats = math.ceil(variance / room - 1e-9)
    return FixedPlan(
        questions=questions, repeats=repeats, margin=margin, alpha=alpha, variance=variance, between=between
    )


def _smallest(holds: Callable[[int], bool]) -> int:
    """The smallest n ≥ 2 that meets a monotonic condition, by doubling and bisection."""
    high = 2
    while not holds(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def pair_variance(side: Side) -> float:
    """Unbiased estimate of 2·E[p(1−p)] from questions with at least two repeats; GUESS if there are none."""
    often = side.count > 1
    if not often.any():
        return GUESS
    return float(2 * np.mean(side.within[often] / (side.count[often] - 1)))


def expected(
    fixed: FixedPlan, drop: float, *, looks: int = 10, power: float = 0.90, exponent: float = 1.0
) -> Characteristics:
    """The characteristics at a true loss `drop` of a sequential design with `power` in place of the `fixed` plan."""
    factor = inflation(looks=looks, alpha=fixed.alpha, power=power, exponent=exponent)
    return characteristics(
        drop=drop / fixed.margin, looks=looks, alpha=fixed.alpha, power=power, exponent=exponent, factor=factor
    )


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """The expected end of a sequential evaluation."""

    pairs: float
    """Answers of each side, on average."""
    passes: float
    """Probability of PASS."""
    fails: float
    """Probability of FAIL."""


def outlook(design: Design, drop: float, *, variance: float = GUESS, reference: int = 0) -> Outlook:
    """The expected end of `design` at a true loss of `drop` (a fraction). `variance` is that of a pair; savings from
    allocation by variance are not included. With a baseline of `reference` earlier repeats only the candidate is asked.
    """
    pairs = _schedule(design, variance, reference)
    noise = variance / 2 / (design.questions * reference) if reference else 0.0
    each = variance / 2 if reference else variance
    errors = np.sqrt(each / pairs + noise)
    times = tuple((1 / (errors**2 * design.information)).tolist())
    ends = endings(
        times,
        drop=drop / design.margin,
        reach=design.margin * math.sqrt(design.information),
        alpha=design.alpha,
        fail_alpha=design.fail_alpha,
        exponent=design.exponent,
        reserve=design.reserve,
        stretch=kept_error(errors, math.sqrt(noise), design.baseline_weight) / errors,
    )
    decided = ends.passes + ends.fails
    asked = float((decided * pairs).sum() + (1 - decided.sum()) * pairs[-1])
    return Outlook(pairs=asked, passes=float(ends.passes.sum()), fails=float(ends.fails.sum()))


def _schedule(design: Design, variance: float, reference: int) -> Floats:
    """Expected answers of each side at each look, as in `Design.opening` and `Design.stage_pairs`."""
    if reference:
        noise, each, found = variance / 2 / (design.questions * reference), variance / 2, []
    else:
        noise, each = 0.0, variance
        parts, repeats = design.opening
        found = [design.questions * repeats * (part + 1) / parts for part in range(parts)]

    def needed(look: int) -> float:
        """Answers that bring the information of a planned look; infinite if the baseline's noise forbids it."""
        room = design.looks / (max(look, 1e-9) * design.information) - noise
        return each / room if room > 0 else math.inf

    number = len(found)
    while (design.reserve or number < design.looks) and (not found or found[-1] < design.budget):
        number += 1
        before = found[-1] if found else 0.0
        if number > design.looks:
            step = (needed(design.looks) - needed(design.looks - 1)) * GROWTH ** (number - design.looks)
        else:
            step = needed(number) - before
        if not math.isfinite(step):
            step = design.budget / design.looks
        if step > 0:
            found.append(min(before + max(step, 1.0), float(design.budget)))
    return np.array(found)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The expected cost and power of a benchmark's evaluation."""

    benchmark: str
    """Its name in matrix.yaml."""
    answers: int
    """Answers of each side if all questions are asked."""
    passes: float
    """Probability of PASS at no loss if all questions are asked."""
    finds: Mapping[float, float]
    """By true loss (a fraction), the probability that it is significant if all questions are asked."""
    needed: FixedPlan
    """The smallest fixed-sample plan with the requested power."""
    sequential: Mapping[float, Outlook]
    """By true loss, including 0, the expected end of the sequential evaluation."""


def forecast(
    benchmark: str,
    design: Design,
    *,
    variance: float = GUESS,
    power: float = 0.80,
    reference: int = 0,
    losses: Sequence[float] = (0.02, 0.05, 0.10),
) -> Forecast:
    """Forecast an evaluation. `variance` is that of a pair, `reference` as in `outlook`."""
    n, margin, alpha = design.questions, design.margin, design.alpha
    own = FixedPlan(questions=n, repeats=design.repeats, margin=margin, alpha=alpha, variance=variance, between=0.0)
    return Forecast(
        benchmark=benchmark,
        answers=own.pairs,
        passes=own.passes(0.0),
        finds={loss: own.finds(loss) for loss in losses},
        needed=plan(margin=margin, questions=n, variance=variance, alpha=alpha, power=power),
        sequential={loss: outlook(design, loss, variance=variance, reference=reference) for loss in (0.0, *losses)},
    )
