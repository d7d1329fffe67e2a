"""Simulate the fixed and the group-sequential evaluation, and print their verdicts and costs.

    python benchmarks/sequential.py [--quick] [--runs N] [--power 0.9]

Each run draws new questions: p ~ Beta for the baseline; the candidate's p is scaled so that its mean is lower by the
true loss. A design has no knowledge of these: it starts from an assumed variance of 0.25 per pair, and learns. In the
first table both sides are asked, and `answers` counts both; in the second the baseline was evaluated before, with the
given repeats, and `answers` counts the candidate's.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "pipeline"))

from flagrelease.verdict import rule
from flagrelease.verdict.stats.design import Design
from flagrelease.verdict.stats.planner import plan
from flagrelease.verdict.stats.sequential import FAIL, PASS, Estimate, Look, Monitor, Progress, allocate
from flagrelease.verdict.stats.spending import Walk
from flagrelease.verdict.types import BenchmarkEvidence, Verdict

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
    runs: int
    """Number of simulations."""
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
    Case(name="AIME", n=30, beta=(0.6, 0.4), margin=0.05, runs=2000, reference=64),
    Case(name="GPQA", n=198, beta=(0.8, 0.5), margin=0.05, runs=2000, reference=32),
    Case(name="MuSR", n=756, beta=(0.8, 0.5), margin=0.03, runs=1000, reference=16),
    Case(name="MMLU", n=14042, beta=(0.9, 0.2), margin=0.01, runs=400, reference=8),
)
LOSSES = (0.0, 0.02, 0.05, 0.10)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Shares of the runs that passed and failed, and the mean number of answers."""

    passed: float
    failed: float
    answers: float


def fixed(
    case: Case, loss: float, *, power: float, seed: int, runs: int, reference: bool = False, alpha: float = 0.05
) -> Outcome:
    """The fixed evaluation proposed by `plan`, judged as in fixed_sample.compare (t, CMH, one benchmark)."""
    random = np.random.default_rng([seed, 1])
    proposed = (
        plan(
            margin=case.margin,
            questions=case.n,
            variance=case.variance,
            between=case.variance / case.reference,
            power=power,
        )
        if reference
        else plan(margin=case.margin, questions=case.n, variance=2 * case.variance, power=power)
    )
    n, k_b = proposed.questions, proposed.repeats
    k_a = case.reference if reference else k_b
    answers = n * k_b if reference else 2 * n * k_b
    return _judged(replace(case, n=n), loss, (k_a, k_b), random, runs, alpha, answers)


def _judged(
    case: Case,
    loss: float,
    repeats: tuple[int, int],
    random: np.random.Generator,
    runs: int,
    alpha: float,
    answers: int,
) -> Outcome:
    """The verdicts of fixed_sample.compare on the given repeats of baseline and candidate."""
    n, (k_a, k_b) = case.n, repeats
    p, q = case.draw(random, runs, loss)
    a, b = random.binomial(k_a, p), random.binomial(k_b, q)
    d = b / k_b - a / k_a
    mean = d.mean(axis=1)
    error = np.hypot(d.std(axis=1, ddof=1) / np.sqrt(n), np.sqrt(2) / (n * min(k_a, k_b)))
    half = stdtrit(n - 1, 1 - alpha) * error
    total, count = a + b, k_a + k_b
    spent = (k_a * k_b * total * (count - total) / (count**2 * (count - 1))).sum(axis=1)
    z = (b - k_b * total / count).sum(axis=1) / np.sqrt(np.maximum(spent, 1e-9))
    p_values = ndtr(z)
    known = zip((mean - half).tolist(), (mean + half).tolist(), p_values.tolist(), strict=True)
    decided = [
        rule.decide(
            BenchmarkEvidence(
                interval=(low, high), margin=case.margin, p_regression=p, significant=p < alpha, above_chance=None
            )
        ).verdict
        for low, high, p in known
    ]
    return Outcome(
        passed=decided.count(Verdict.PASS) / runs, failed=decided.count(Verdict.FAIL) / runs, answers=float(answers)
    )


class Simulation:
    """Many sequential evaluations in parallel, using the same functions as an actual one."""

    def __init__(
        self,
        design: Design,
        p: Floats,
        q: Floats,
        random: np.random.Generator,
        *,
        by_variance: bool,
        reference: int = 0,
    ) -> None:
        self.design, self.p, self.q, self.random, self.by_variance = design, p, q, random, by_variance
        self.runs = len(p)
        self.alive = np.arange(self.runs)
        self.verdict = np.zeros(self.runs, np.int64)
        self.pairs = np.zeros(self.runs)
        self.progress = Progress.start(self.runs, design.questions)
        self.mean, self.reference_variance = np.zeros_like(p), np.zeros(self.runs)
        self.reference = reference
        if reference:
            right = random.binomial(reference, p).astype(float)
            self.mean = right / reference
            spread = self.mean * (1 - self.mean) / (reference - 1)
            self.reference_variance = spread.sum(axis=1) / design.questions**2
            self.progress = Progress.against(right, np.full(p.shape, reference))
        self.number = 0
        self.monitor = design.monitor(self.runs)
        self.cluster = np.arange(design.questions)

    def run(self) -> Outcome:
        parts, repeats = self.design.opening
        chunks = np.array_split(self.random.permutation(self.design.questions), parts)
        for rows in () if self.reference else chunks:
            chunk = np.zeros(self.design.questions, bool)
            chunk[rows] = True
            a, b = (np.where(chunk, self.random.binomial(repeats, x), 0.0) for x in (self.p, self.q))
            self.progress = self.progress.breadth(chunk, repeats, a, b)
            self._look()
        while len(self.alive):
            variance = self.progress.variance() if self.by_variance else np.ones_like(self.progress.right)
            pairs = self.design.stage_pairs(self.progress, self.number + 1, self.reference_variance)
            stage = allocate(variance, pairs, self.random.random(len(self.alive)))
            b = self.random.binomial(stage.count, self.q).astype(float)
            a = stage.count * self.mean if self.reference else self.random.binomial(stage.count, self.p).astype(float)
            self.progress = self.progress.depth(stage, a, b)
            self._look()
        passed, failed = (float((self.verdict == v).mean()) for v in (PASS, FAIL))
        return Outcome(passed=passed, failed=failed, answers=(1 if self.reference else 2) * float(self.pairs.mean()))

    def _look(self) -> None:
        self.number += 1
        if not len(self.alive):
            return
        estimate: Estimate = self.progress.estimate(self.cluster)
        spent = self.progress.pairs >= self.design.budget
        look: Look
        self.monitor, look = self.monitor.look(estimate, spent)
        ended = (look.decision != 0) | spent | (look.time >= 1)
        self.verdict[self.alive[ended]] = look.decision[ended]
        self.pairs[self.alive[ended]] = self.progress.pairs[ended]
        self._keep(~ended)

    def _keep(self, lane: NDArray[np.bool_]) -> None:
        self.alive, self.p, self.q = self.alive[lane], self.p[lane], self.q[lane]
        progress = self.progress
        self.mean, self.reference_variance = self.mean[lane], self.reference_variance[lane]
        self.progress = replace(
            progress,
            asked=progress.asked[lane],
            known=progress.known[lane],
            right=progress.right[lane],
            signal=progress.signal[lane],
            weight=progress.weight[lane],
        )
        walk = self.monitor.passing
        kept = Walk(walk.time[lane], walk.place[lane], walk.mass[lane])
        m = self.monitor
        self.monitor = Monitor(m.margin, m.information, m.alpha, m.fail_alpha, m.exponent, kept, kept)


def sequential(
    case: Case, loss: float, *, power: float, seed: int, runs: int, by_variance: bool = True, reference: bool = False
) -> Outcome:
    """The sequential evaluation with the product's defaults and a cap too high to matter."""
    design = Design(questions=case.n, margin=case.margin, repeats=200, power=power)
    random = np.random.default_rng([seed, 2])
    p, q = case.draw(random, runs, loss)
    known = case.reference if reference else 0
    return Simulation(design, p, q, random, by_variance=by_variance, reference=known).run()


def table(cases: tuple[Case, ...], *, power: float, scale: float, seed: int, reference: bool) -> list[str]:
    """A row per benchmark and true loss. PASS is an error at a loss >= the margin, FAIL at no loss."""
    head: tuple[str, ...] = (
        "benchmark",
        "n",
        "baseline repeats",
        "margin",
        "true loss",
        "runs",
        "fixed PASS / FAIL",
        "sequential PASS / FAIL",
    )
    head += ("answers fixed", "sequential", "ratio", "stopping alone")
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for case in cases:
        runs, repeats = max(int(case.runs * scale), 20), case.reference if reference else "–"
        for loss in sorted({*LOSSES, case.margin}):
            one = fixed(case, loss, power=power, seed=seed, runs=runs, reference=reference)
            two = sequential(case, loss, power=power, seed=seed, runs=runs, reference=reference)
            alike = sequential(case, loss, power=power, seed=seed, runs=runs, reference=reference, by_variance=False)
            rows.append(
                f"| {case.name} | {case.n} | {repeats} | {case.margin:.2f} | {loss:.2f} | {runs} "
                f"| {one.passed:.3f} / {one.failed:.3f} | {two.passed:.3f} / {two.failed:.3f} "
                f"| {one.answers:.0f} | {two.answers:.0f} | {two.answers / one.answers:.2f} "
                f"| {alike.answers / one.answers:.2f} |"
            )
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="a tenth of the runs, without the largest benchmark")
    arguments.add_argument("--runs", type=float, default=1.0, help="multiple of the default number of runs")
    arguments.add_argument("--power", type=float, default=0.90)
    arguments.add_argument("--seed", type=int, default=1)
    chosen = arguments.parse_args()
    cases, scale = (CASES[:3], 0.1) if chosen.quick else (CASES, chosen.runs)
    for title, reference in (("both sides asked", False), ("baseline evaluated before", True)):
        print(f"\n{title}, power {chosen.power}\n")
        print("\n".join(table(cases, power=chosen.power, scale=scale, seed=chosen.seed, reference=reference)))


if __name__ == "__main__":
    main()
