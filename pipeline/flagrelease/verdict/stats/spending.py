"""Group-sequential boundaries by α spending, exact by numerical integration.

Sources: Armitage, McPherson and Rowe 1969, J. R. Stat. Soc. A 132:235 (the recursion); Lan and DeMets 1983,
Biometrika 70:659 (spending by information, so that looks need not follow the plan); Jennison and
Turnbull 2000, Group Sequential Methods, ch. 3, 7 and 19 (canonical joint distribution, spending α·t^ρ).

A test watches a Brownian motion B(t) = Z·√t at information times t; t = 1 is the information that the design
plans for. Arrays have a leading axis of independent tests, so that a simulation runs thousands at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import ndtr, ndtri

from flagrelease.verdict.stats.paired import Floats

__all__ = [
    "CLOSEST",
    "Characteristics",
    "Endings",
    "Walk",
    "characteristics",
    "endings",
    "inflation",
    "limits",
    "share_spent",
]

# Looks closer together than this in information time count as one: the integration grid has no finer resolution.
CLOSEST = 0.02
_FAR = 5.5  # standard deviations; the probability beyond is less than 1e-7
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)


@dataclass(frozen=True)
class Walk:
    """The distribution of the walks that have not stopped yet."""

    time: Floats
    """Information time, (tests,)."""
    place: Floats
    """Positions, (tests, nodes)."""
    mass: Floats
    """The probability near each position, (tests, nodes)."""

    @staticmethod
    def start(tests: int = 1) -> Walk:
        return Walk(np.zeros(tests), np.zeros((tests, 1)), np.ones((tests, 1)))

    def above(self, time: Floats, limit: Floats, drift: float = 0.0) -> Floats:
        """P(not stopped before `time`, and above `limit` then), shape (tests,)."""
        step = (time - self.time)[:, None]
        return np.asarray((self.mass * ndtr((self.place + drift * step - limit[:, None]) / np.sqrt(step))).sum(axis=1))

    def within(self, time: Floats, low: Floats, high: Floats, drift: float = 0.0) -> Walk:
        """The walks that are between `low` and `high` at `time`."""
        step = (time - self.time)[:, None, None]
        half = np.maximum(high - low, 0.0)[:, None] / 2
        place = ((high + low) / 2)[:, None] + half * _NODES
        deviation = (place[:, :, None] - self.place[:, None, :] - drift * step) / np.sqrt(step)
        density = np.exp(-(deviation**2) / 2) / np.sqrt(2 * math.pi * step)
        mass = np.einsum("tnm,tm->tn", density, self.mass) * half * _WEIGHTS
        return Walk(time, place, mass)

    def limit(self, time: Floats, spend: Floats) -> Floats:
        """The z-value above which exactly `spend` is stopped at `time`, shape (tests,); by Newton's method.

        It starts at the value for a walk without earlier stops, which is never too low. From the right of a convex tail
        the first step may overshoot, and the further ones converge.
        """
        root, step = np.sqrt(time), (time - self.time)[:, None]
        z = np.minimum(-ndtri(np.maximum(spend, 1e-12)), _FAR + 1)
        for _ in range(40):
            deviation = (self.place - (z * root)[:, None]) / np.sqrt(step)
            excess = (self.mass * ndtr(deviation)).sum(axis=1) - spend
            slope = (self.mass * np.exp(-(deviation**2) / 2)).sum(axis=1) * root / np.sqrt(2 * math.pi * step[:, 0])
            move = np.clip(excess / np.maximum(slope, 1e-300), -0.5, 0.5)
            z = np.clip(z + move, -_FAR, _FAR + 2)
            if np.abs(move).max() < 1e-10:
                break
        return np.asarray(z)

    def below(self, time: Floats, z: Floats) -> Walk:
        """The walks that were not stopped by an upper boundary `z` at `time`."""
        root = np.sqrt(time)
        return self.within(time, np.full_like(time, -_FAR) * root, z * root)


def share_spent(time: Floats, exponent: float, reserve: float) -> Floats:
    """The share of α that is spent by `time`: t^exponent up to the planned information, without the `reserve`, and the
    reserve beyond it, so slowly that some of it remains however long the evaluation goes on."""
    return np.asarray(
        (1 - reserve) * np.minimum(time, 1.0) ** exponent + reserve * (1 - 1 / np.maximum(time, 1.0)), np.float64
    )


def limits(
    times: tuple[float, ...], alpha: float, exponent: float, *, last: bool = False, reserve: float = 0.0
) -> Floats:
    """The z-values of an upper boundary that spends α by `share_spent` at `times`; if `last`, all of it at the last."""
    walk, spent, values = Walk.start(), 0.0, []
    for t in times:
        now = np.array([t])
        by_now = alpha if last and t == times[-1] else alpha * float(share_spent(now, exponent, reserve)[0])
        z = walk.limit(now, np.array([by_now - spent]))
        spent = by_now
        walk = walk.below(now, z)
        values.append(float(z[0]))
    return np.array(values)


@dataclass(frozen=True, kw_only=True)
class Characteristics:
    """The operating characteristics of a design at one true difference."""

    passes: float
    """Probability of PASS."""
    fails: float
    """Probability of FAIL."""
    information: float
    """Expected information at the end, in units of the fixed-sample design's."""


def characteristics(
    *,
    drop: float,
    looks: int,
    alpha: float,
    power: float,
    exponent: float,
    factor: float,
    fail_alpha: float | None = None,
) -> Characteristics:
    """The characteristics of a design with `looks` equal steps up to `factor` times the fixed-sample information.

    `drop` is the true loss in units of the margin. PASS rejects "the loss is the margin" at `alpha`, FAIL rejects
    "there is no loss" at `fail_alpha` (by default the same), each with its own one-sided boundary; the first one that
    is crossed ends the evaluation.
    """
    times = tuple(np.arange(1, looks + 1) / looks)
    reach = float(ndtri(1 - alpha) + ndtri(power)) * math.sqrt(factor)  # margin in standard errors at t = 1
    failing = alpha if fail_alpha is None else fail_alpha
    ends = endings(times, drop=drop, reach=reach, alpha=alpha, fail_alpha=failing, exponent=exponent)
    alive = 1.0 - np.concatenate(([0.0], np.cumsum(ends.passes + ends.fails)[:-1]))
    return Characteristics(
        passes=float(ends.passes.sum()),
        fails=float(ends.fails.sum()),
        information=float(factor * (alive * np.diff(times, prepend=0.0)).sum()),
    )


@dataclass(frozen=True, kw_only=True)
class Endings:
    """The probabilities of the end of an evaluation at each of its looks."""

    passes: Floats
    """With PASS, (looks,)."""
    fails: Floats
    """With FAIL, (looks,)."""


def endings(
    times: tuple[float, ...],
    *,
    drop: float,
    reach: float,
    alpha: float,
    fail_alpha: float,
    exponent: float,
    reserve: float = 0.0,
    stretch: Floats | float = 1.0,
) -> Endings:
    """The endings of an evaluation with looks at `times`; the last look spends the remaining α.

    `drop` is the true loss in units of the margin, `reach` the margin in standard errors at t = 1, `stretch` (looks,)
    the standard error of the bound of PASS over that of the difference.
    """
    passing, failing = (limits(times, level, exponent, last=True, reserve=reserve) for level in (alpha, fail_alpha))
    passing = passing * stretch
    walk = Walk.start()
    passes, fails = np.zeros(len(times)), np.zeros(len(times))
    for look, t in enumerate(times):
        now = np.array([t])
        low = np.array([-failing[look] * math.sqrt(t)])
        high = np.maximum(passing[look] * math.sqrt(t) - reach * t, low)
        passes[look] = float(walk.above(now, high, -drop * reach)[0])
        fails[look] = float(walk.mass.sum()) - float(walk.above(now, low, -drop * reach)[0])
        walk = walk.within(now, low, high, -drop * reach)
    return Endings(passes=passes, fails=fails)


@cache
def inflation(*, looks: int, alpha: float, power: float, exponent: float, fail_alpha: float | None = None) -> float:
    """Maximum information of a sequential design over the fixed-sample design's, for equal power at no loss.

    At most 3: FAIL at `fail_alpha` may leave no room for the power.
    """
    low, high = 0.8, 3.0
    for _ in range(40):
        middle = (low + high) / 2
        reached = characteristics(
            drop=0.0,
            looks=looks,
            alpha=alpha,
            power=power,
            exponent=exponent,
            factor=middle,
            fail_alpha=fail_alpha,
        ).passes
        low, high = (low, middle) if reached >= power else (middle, high)
    return high
