"""Simulate false PASS over several attempts, and given one baseline that is kept for all.

    python benchmarks/attempts.py [TABLE …] [--runs N] [--seed N] [--only NAME]

TABLE is `reruns` (an image is evaluated until it passes, at most five times), `rounds` (attribution: up to three
further images, each after a FAIL), `shared` (eight chips against one baseline) or `levels` (ways to divide α among the
attempts, and the weight of the baseline's error, by exact integration). By default all of them.
N is the number of simulations, of which a quarter for benchmarks of 500 questions and more.

Every image loses exactly the margin, on all questions alike on the logit scale, the loss for which PASS is most likely.
"Before" is the rule without these budgets: 5 % for each attempt, and the baseline's error only in the sum of squares.
"After" is the product's. The generators of data are those of `simulated.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from simulated import AIME, GPQA_D, MUSR, Floats, Many, Random, Setting
from tables import Order, head, percent, print_tables

from flagrelease.verdict.attempts import level
from flagrelease.verdict.stats.design import Design
from flagrelease.verdict.stats.planner import outlook
from flagrelease.verdict.stats.sequential import FAIL, PASS
from flagrelease.verdict.types import ALPHA, BASELINE_WEIGHT, FAIL_ALPHA, RESERVE

SETTINGS = (AIME, replace(AIME, repeats=64), GPQA_D, MUSR)
CHIPS = 8
WORST = 0.1
"""The share of the baselines that is looked at alone: those with the lowest scores for their questions."""

Rule = Callable[[Setting, int], Setting]


def before(setting: Setting, _attempt: int) -> Setting:
    return setting


def after(setting: Setting, attempt: int) -> Setting:
    return replace(setting, level=level(attempt), weight=BASELINE_WEIGHT)


RULES: tuple[Rule, Rule] = (before, after)


@dataclass(frozen=True)
class Kept:
    """Baselines that are kept, one in each row, and images that lose the margin."""

    setting: Setting
    p: Floats
    """The baseline's probabilities, (runs, questions)."""
    q: Floats
    """An image's."""
    right: Floats
    """The baseline's right answers."""

    @staticmethod
    def draw(setting: Setting, random: Random, runs: int) -> Kept:
        p, q = setting.sides(setting.margin, "logit", random, runs)
        return Kept(setting, p, q, np.asarray(random.binomial(setting.repeats, p), np.float64))

    def judge(self, rule: Rule, attempt: int, rows: Floats, random: Random) -> Many:
        chosen = rule(self.setting, attempt)
        return Many(chosen, self.p[rows], self.q[rows], random, right=self.right[rows]).run()

    def worst(self) -> Floats:
        """Whether a baseline is among those with the lowest scores, in their own standard errors."""
        error = (self.right / self.setting.repeats - self.p).sum(axis=1) / np.sqrt((self.p * (1 - self.p)).sum(axis=1))
        return np.asarray(error <= np.quantile(error, WORST))


def until(kept: Kept, rule: Rule, random: Random, most: int, *, goes_on: Callable[[Floats], Floats]) -> float:
    """How often one of `most` attempts passes; `goes_on` tells after which verdicts another one follows."""
    passed, rows = np.zeros(len(kept.p), bool), np.arange(len(kept.p))
    for attempt in range(1, most + 1):
        found = kept.judge(rule, attempt, rows, random).verdict
        passed[rows[found == PASS]] = True
        rows = rows[goes_on(found)]
        if not len(rows):
            break
    return float(passed.mean())


def _attempts(order: Order, most: int, goes_on: Callable[[Floats], Floats]) -> list[str]:
    rows = head("benchmark", "before", "after", "runs")
    for setting in order.settings(SETTINGS):
        count = order.runs if setting.n < 500 else max(order.runs // 4, 50)
        cells = []
        for rule in RULES:
            random = np.random.default_rng([order.seed, setting.n, setting.repeats])
            kept = Kept.draw(setting, random, count)
            cells.append(percent(until(kept, rule, random, most, goes_on=goes_on), count))
        rows.append(f"| {setting.name} {setting.n}×{setting.repeats} | {' | '.join(cells)} | {count} |")
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def reruns(order: Order) -> list[str]:
    """Evaluated again until it passes, at most five times."""
    return _attempts(order, 5, lambda found: found != PASS)


def rounds(order: Order) -> list[str]:
    """Up to three rounds of attribution, each after a FAIL; every image loses the margin."""
    return _attempts(order, 4, lambda found: found == FAIL)


def shared(order: Order) -> list[str]:
    """Eight chips are judged against each baseline."""
    worst_tenth = "a cell, worst tenth of the baselines"
    rows = head("benchmark", "rule", "a cell", "at least one of 8", worst_tenth, "answers", "baselines")
    for setting in order.settings(SETTINGS):
        count = order.runs if setting.n < 500 else max(order.runs // 4, 50)
        for name, rule in zip(("before", "after"), RULES, strict=True):
            random = np.random.default_rng([order.seed, setting.n, setting.repeats])
            kept = Kept.draw(setting, random, count)
            every = [kept.judge(rule, 1, np.arange(count), random) for _ in range(CHIPS)]
            found = np.array([many.verdict == PASS for many in every])
            worst = found.mean(axis=0)[kept.worst()]
            answers = np.mean([many.answers.mean() for many in every])
            cells = [
                percent(found.mean(), count * CHIPS),
                percent(found.any(axis=0).mean(), count),
                f"{100 * worst.mean():.1f} ± {100 * worst.std() / np.sqrt(len(worst)):.1f}",
            ]
            label = f"{setting.name} {setting.n}×{setting.repeats}"
            rows.append(f"| {label} | {name} | {' | '.join(cells)} | {answers:,.0f} | {count} |")
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def levels(_order: Order) -> list[str]:
    """PASS of an identical stack / the candidate's answers relative to a level of 5 % without a weight."""
    ways = {
        "5 % each": (1.0, 1.0, 1.0),
        "α·6/(π²k²)": (0.608, 0.152, 0.0675),
        "α/2^k": (0.5, 0.25, 0.125),
        "0.8 α, then half of the rest": (0.8, 0.1, 0.05),
        "0.9 α, then half of the rest": (0.9, 0.05, 0.025),
    }
    rows = ["| levels | first attempt | second | third |", "|---" * 4 + "|"]
    rows += [f"| {name} | {' | '.join(_cost(share, 0.0, 64) for share in shares)} |" for name, shares in ways.items()]
    weights = (0.0, 0.4, BASELINE_WEIGHT)
    rows += ["", "| repeats of the baseline | " + " | ".join(f"weight {weight}" for weight in weights) + " |"]
    rows.append("|---" * (1 + len(weights)) + "|")
    for repeats in (32, 64, 128, 256):
        rows.append(f"| {repeats} | {' | '.join(_cost(0.9, weight, repeats) for weight in weights)} |")
    return rows


def _cost(share: float, weight: float, repeats: int) -> str:
    def ends(alpha: float, weight: float, repeats: int) -> tuple[float, float]:
        design = Design(
            questions=30,
            margin=0.05,
            repeats=repeats,
            alpha=alpha,
            fail_alpha=FAIL_ALPHA,
            reserve=RESERVE,
            baseline_weight=weight,
        )
        found = outlook(design, 0.0, reference=repeats)
        return found.passes, found.pairs

    passes, answers = ends(share * ALPHA, weight, repeats)
    return f"{passes:.3f} / {answers / ends(ALPHA, 0.0, 64)[1]:.2f}"


TABLES = {"reruns": reruns, "rounds": rounds, "shared": shared, "levels": levels}


if __name__ == "__main__":
    print_tables(__doc__, TABLES, runs=800)
