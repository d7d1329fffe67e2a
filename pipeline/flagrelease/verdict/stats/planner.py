"""Before anything runs: how many questions and repeats a margin takes, and what they can decide.

A pair is one answer of each side to one question. The variance of its difference is 2·p(1−p) on average over
questions when both sides are equal: 0.25 is a safe guess, a baseline with repeats tells it (`pair_variance`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from flagrelease.verdict.stats.design import Design
from flagrelease.verdict.stats.paired import Floats, Side
from flagrelease.verdict.stats.spending import Characteristics, characteristics, endings, inflation

__all__ = ["GUESS", "Forecast", "Outlook", "Plan", "expected", "forecast", "outlook", "pair_variance", "plan"]

GUESS = 0.25


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A fixed evaluation: `repeats` answers of each side to each of `questions`.

    `enough` is false where no number of repeats reaches the power, because the benchmark has too few questions
    for how much their differences vary; the plan then says what `questions` it would take at one repeat.
    """

    questions: int
    repeats: int
    margin: float
    alpha: float
    variance: float
    between: float
    enough: bool = True

    @property
    def pairs(self) -> int:
        return self.questions * self.repeats

    @property
    def error(self) -> float:
        """Standard error of the difference."""
        return math.sqrt((self.between + self.variance / self.repeats) / self.questions)

    @property
    def _quantile(self) -> float:
        return float(stdtrit(max(self.questions - 1, 1), 1 - self.alpha))

    def passes(self, drop: float) -> float:
        """Chance of PASS when the candidate truly loses `drop`."""
        return float(ndtr((self.margin - drop) / self.error - self._quantile))

    def finds(self, drop: float) -> float:
        """Chance that a true loss of `drop` is significant."""
        return float(ndtr(drop / self.error - self._quantile))


def plan(
    *,
    margin: float,
    questions: int,
    variance: float = GUESS,
    between: float = 0.0,
    alpha: float = 0.05,
    power: float = 0.80,
) -> Plan:
    """The smallest evaluation with `power` to PASS at no loss. `between` is the variance of true differences
    between questions, which repeats do not reduce; identical chips have none.

    Fewer questions than there are, once each, where that is enough.
    """

    def largest_error(n: int) -> float:
        return margin / float(stdtrit(max(n - 1, 1), 1 - alpha) + ndtri(power))

    single = _smallest(lambda n: math.sqrt((between + variance) / n) <= largest_error(n))
    if single <= questions:
        return Plan(questions=single, repeats=1, margin=margin, alpha=alpha, variance=variance, between=between)
    room = questions * largest_error(questions) ** 2 - between
    if room <= 0:
        return Plan(
            questions=single, repeats=1, margin=margin, alpha=alpha, variance=variance, between=between, enough=False
        )
    repeats = math.ceil(variance / room - 1e-9)
    return Plan(questions=questions, repeats=repeats, margin=margin, alpha=alpha, variance=variance, between=between)


def _smallest(holds: Callable[[int], bool]) -> int:
    """The smallest n ≥ 2 for which a condition that stays true holds, by doubling and halving."""
    high = 2
    while not holds(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def pair_variance(side: Side) -> float:
    """2·E[p(1−p)], unbiased, from a baseline with at least two repeats of some questions."""
    often = side.count > 1
    if not often.any():
        return GUESS
    return float(2 * np.mean(side.within[often] / (side.count[often] - 1)))


def expected(
    fixed: Plan, drop: float, *, looks: int = 10, power: float = 0.90, exponent: float = 1.0
) -> Characteristics:
    """What a sequential design of `power` does at a true loss: expected information as a share of the fixed plan's."""
    factor = inflation(looks=looks, alpha=fixed.alpha, power=power, exponent=exponent)
    return characteristics(
        drop=drop / fixed.margin, looks=looks, alpha=fixed.alpha, power=power, exponent=exponent, factor=factor
    )


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """How a sequential evaluation ends on average: `pairs` answers on each side, the chances of PASS and of FAIL."""

    pairs: float
    passes: float
    fails: float


def outlook(design: Design, drop: float, *, variance: float = GUESS, reference: int = 0) -> Outlook:
    """What `design` does at a true loss of `drop` (a fraction). `variance` is that of a pair; asking by variance, which
    saves some more, is left out. With `reference` repeats of a baseline that is whole only the candidate is asked."""
    pairs = _schedule(design, variance, reference)
    noise = variance / 2 / (design.questions * reference) if reference else 0.0
    each = variance / 2 if reference else variance
    times = tuple(1 / ((each / count + noise) * design.information) for count in pairs)
    ends = endings(
        times,
        drop=drop / design.margin,
        reach=design.margin * math.sqrt(design.information),
        alpha=design.alpha,
        fail_alpha=design.fail_alpha,
        exponent=design.exponent,
    )
    decided = ends.passes + ends.fails
    asked = float((decided * pairs).sum() + (1 - decided.sum()) * pairs[-1])
    return Outlook(pairs=asked, passes=float(ends.passes.sum()), fails=float(ends.fails.sum()))


def _schedule(design: Design, variance: float, reference: int) -> Floats:
    """Answers on each side at each look, on average: as `Design.opening` and `Design.stage_pairs` take them."""
    if reference:
        noise, each, found = variance / 2 / (design.questions * reference), variance / 2, []
    else:
        noise, each = 0.0, variance
        parts, repeats = design.opening
        found = [design.questions * repeats * (part + 1) / parts for part in range(parts)]
    number = len(found)
    while number < design.looks and (not found or found[-1] < design.budget):
        number += 1
        room = design.looks / (number * design.information) - noise
        before = found[-1] if found else 0.0
        step = each / room - before if room > 0 else design.budget / design.looks
        if step > 0:
            found.append(min(before + max(step, 1.0), float(design.budget)))
    return np.array(found)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What an evaluation of a benchmark will cost and can decide, before it runs.

    `answers` is for each side and in whole. `passes` is the chance of PASS at no loss, `finds` that of a significant
    result at each loss. `needed` is the fixed plan that has the power asked for. `sequential` says what comes of a
    sequential evaluation at no loss (0) and at each of the losses.
    """

    benchmark: str
    answers: int
    passes: float
    finds: Mapping[float, float]
    needed: Plan
    sequential: Mapping[float, Outlook]


def forecast(
    benchmark: str,
    design: Design,
    *,
    variance: float = GUESS,
    power: float = 0.80,
    reference: int = 0,
    losses: Sequence[float] = (0.02, 0.05, 0.10),
) -> Forecast:
    """`variance` is that of a pair: `pair_variance` of a baseline, or the safe guess. For `reference` see `outlook`."""
    n, margin, alpha = design.questions, design.margin, design.alpha
    own = Plan(questions=n, repeats=design.repeats, margin=margin, alpha=alpha, variance=variance, between=0.0)
    return Forecast(
        benchmark=benchmark,
        answers=own.pairs,
        passes=own.passes(0.0),
        finds={loss: own.finds(loss) for loss in losses},
        needed=plan(margin=margin, questions=n, variance=variance, alpha=alpha, power=power),
        sequential={loss: outlook(design, loss, variance=variance, reference=reference) for loss in (0.0, *losses)},
    )
