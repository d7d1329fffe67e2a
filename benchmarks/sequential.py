"""Compare the group-sequential evaluation of a release with a fixed-sample one of the same power.

    python benchmarks/sequential.py [both] [kept] [--runs N] [--jobs N] [--only NAME]

`both`: both sides are asked, and `answers` counts both; `kept`: the baseline was evaluated before, with the given
repeats, and `answers` counts the candidate's. N is the number of simulations, fewer for large benchmarks.

Each run draws new questions: p ~ Beta for the baseline; the candidate's p is scaled so that its mean is lower by the
true loss on average over questions. The sequential design has no knowledge of these: it starts from an assumed
variance of 0.25 per pair, and learns; the fixed-sample one knows the variance. Both are judged by the rule of a first
attempt.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

sys.path.insert(0, str(Path(__file__).resolve().parent))

from simulated import Many, Setting
from tables import Order, head, print_tables

from flagrelease.verdict import rule
from flagrelease.verdict.attempts import level
from flagrelease.verdict.stats.paired import kept_error, loss_error
from flagrelease.verdict.types import BASELINE_WEIGHT, FAIL_ALPHA, BenchmarkEvidence, Verdict

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A benchmark to simulate."""

    name: str
    n: int
    """Number of questions."""
    beta: tuple[float, float]
    """Parameters of the distribution of p."""
    margin: float
    fewer: int
    """By which the number of simulations is divided."""
    reference: int
    """Repeats of a reused baseline."""

    @property
    def variance(self) -> float:
        """E[p(1−p)], the variance of one answer."""
        a, b = self.beta
        return a * b / ((a + b) * (a + b + 1))

    def draw(self, random: np.random.Generator, runs: int, loss: float) -> tuple[Floats, Floats]:
        p = random.beta(*self.beta, (runs, self.n))
        return p, p * (1 - loss / (self.beta[0] / sum(self.beta)))


CASES = (
    Case(name="AIME", n=30, beta=(0.6, 0.4), margin=0.05, fewer=1, reference=64),
    Case(name="GPQA", n=198, beta=(0.8, 0.5), margin=0.05, fewer=1, reference=32),
    Case(name="MuSR", n=756, beta=(0.8, 0.5), margin=0.03, fewer=2, reference=16),
    Case(name="MMLU", n=14042, beta=(0.9, 0.2), margin=0.01, fewer=4, reference=8),
)
LOSSES = (0.0, 0.02, 0.05, 0.10)
POWER = 0.99
"""The power of the fixed-sample evaluation: that which the sequential one has in these tables."""
REPEATS = 200
"""The most repeats of the sequential evaluation, too many to matter."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Shares of the runs that passed and failed, and the mean number of answers."""

    passed: float
    failed: float
    answers: float


def fixed(case: Case, loss: float, *, seed: int, runs: int, reference: bool) -> Outcome:
    """The fixed-sample evaluation with the same levels, and the power that the sequential one has."""
    random = np.random.default_rng([seed, 1])
    answers = _smallest(case, reference)
    n, k_b = min(answers, case.n), max(-(-answers // case.n), 1)
    k_a = case.reference if reference else k_b
    asked = n * k_b if reference else 2 * n * k_b
    return _judged(case, n, loss, (k_a, k_b), random, runs, asked)


def _smallest(case: Case, reference: bool) -> int:
    """The fewest answers of the candidate with which a fixed-sample evaluation has the power at no loss."""
    z, with_power = (NormalDist().inv_cdf(share) for share in (1 - level(1), POWER))
    answers = 8
    while True:
        own = math.sqrt(case.variance / answers)
        other = math.sqrt(case.variance / (min(answers, case.n) * case.reference)) if reference else own
        total = math.hypot(own, other)
        bound = float(kept_error(total, other, BASELINE_WEIGHT if reference else 0.0))
        if z * bound + with_power * total <= case.margin:
            return answers
        answers += max(answers // 200, 1)


def _judged(
    case: Case, n: int, loss: float, repeats: tuple[int, int], random: np.random.Generator, runs: int, answers: int
) -> Outcome:
    """The verdicts of fixed_sample.compare (t, CMH) on `n` questions with the repeats of baseline and candidate."""
    k_a, k_b = repeats
    p, q = (side[:, :n] for side in case.draw(random, runs, loss))
    a, b = random.binomial(k_a, p), random.binomial(k_b, q)
    d = b / k_b - a / k_a
    mean = d.mean(axis=1)
    error = np.hypot(d.std(axis=1, ddof=1) / np.sqrt(n), np.sqrt(2) / (n * min(k_a, k_b)))
    below = loss_error(error, case.margin, questions=n, answers=n * k_b, population=case.n)
    if k_a != k_b:
        spread = (a / k_a * (1 - a / k_a) / (k_a - 1)).sum(axis=1) / n**2
        below = kept_error(below, np.sqrt(spread), BASELINE_WEIGHT)
    low, high = mean - stdtrit(n - 1, 1 - level(1)) * below, mean + stdtrit(n - 1, 1 - FAIL_ALPHA) * error
    total, count = a + b, k_a + k_b
    spent = (k_a * k_b * total * (count - total) / (count**2 * (count - 1))).sum(axis=1)
    p_values = ndtr((b - k_b * total / count).sum(axis=1) / np.sqrt(np.maximum(spent, 1e-9)))
    known = zip(low.tolist(), high.tolist(), p_values.tolist(), strict=True)
    decided = [
        rule.decide(
            BenchmarkEvidence(
                interval=(low, high),
                margin=case.margin,
                p_regression=p,
                significant=p < FAIL_ALPHA,
                above_chance=None,
            )
        ).verdict
        for low, high, p in known
    ]
    return Outcome(
        passed=decided.count(Verdict.PASS) / runs, failed=decided.count(Verdict.FAIL) / runs, answers=float(answers)
    )


def sequential(
    case: Case, loss: float, *, seed: int, runs: int, by_variance: bool = True, reference: bool = False
) -> Outcome:
    """The sequential evaluation of a release's first attempt, with a cap too high to matter."""
    random = np.random.default_rng([seed, 2])
    p, q = case.draw(random, runs, loss)
    setting = Setting(
        name=case.name,
        n=case.n,
        repeats=REPEATS,
        margin=case.margin,
        kind="beta",
        served=not reference,
        by_variance=by_variance,
        known=case.reference if reference else 0,
    ).in_release
    found = Many(setting, p, q, random).run()
    return Outcome(
        passed=found.passed, failed=found.failed, answers=(1 if reference else 2) * float(found.answers.mean())
    )


def row(case: Case, loss: float, runs: int, seed: int, reference: bool) -> str:
    """PASS is an error at a loss >= the margin, FAIL at no loss."""
    one = fixed(case, loss, seed=seed, runs=runs, reference=reference)
    two = sequential(case, loss, seed=seed, runs=runs, reference=reference)
    alike = sequential(case, loss, seed=seed, runs=runs, reference=reference, by_variance=False)
    return (
        f"| {case.name} | {case.n} | {case.reference if reference else '–'} | {case.margin:.2f} | {loss:.2f} | {runs} "
        f"| {one.passed:.3f} / {one.failed:.3f} | {two.passed:.3f} / {two.failed:.3f} "
        f"| {one.answers:,.0f} | {two.answers:,.0f} | {two.answers / one.answers:.2f} "
        f"| {alike.answers / one.answers:.2f} |"
    )


def table(order: Order, reference: bool) -> list[str]:
    """A row per benchmark and true loss."""
    rows = head("benchmark", "n", "baseline repeats", "margin", "true loss", "runs", *COLUMNS)
    cases = [case for case in CASES if order.only in case.name]
    tasks = [
        (case, loss, max(order.runs // case.fewer, 20), order.seed, reference)
        for case in cases
        for loss in sorted({*LOSSES, case.margin})
    ]
    for line in order.spread(row, tasks):
        rows.append(line)
        print(line, file=sys.stderr, flush=True)
    return rows


COLUMNS = (
    "fixed PASS / FAIL",
    "sequential PASS / FAIL",
    "answers fixed",
    "sequential",
    "ratio",
    "stopping alone",
)
TABLES = {"both": partial(table, reference=False), "kept": partial(table, reference=True)}


if __name__ == "__main__":
    print_tables(__doc__, TABLES, runs=400)
