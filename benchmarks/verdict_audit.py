"""Simulate error rates and power of the verdict, with data generators that share no code with the product.

    python benchmarks/verdict_audit.py [TABLE …] [--runs N] [--seed N] [--only NAME]

TABLE is `designs` (ways to go on with an open verdict: PASS, FAIL and information), `margin` (false PASS at a loss of
exactly the margin), `equal` (identical stacks: PASS, false FAIL, answers; and the power of the cell) or `skill`
(candidates without the skill, as samples). By default all of them.

The estimand is the benchmark as it is: its own questions, repeats without end. A loss is therefore exactly the margin
on the questions of each run. Decisions are made by the product's functions: `Progress`, `allocate`, `Design` and
`Monitor`, with `rule.decide`, for the group-sequential design, `fixed_sample.compare` for samples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "pipeline"))

from flagrelease.verdict.attempts import level
from flagrelease.verdict.fixed_sample import compare
from flagrelease.verdict.samples import Sample
from flagrelease.verdict.stats.design import Design
from flagrelease.verdict.stats.paired import kept_error, loss_error
from flagrelease.verdict.stats.planner import GUESS, outlook
from flagrelease.verdict.stats.sequential import FAIL, PASS, Progress, allocate
from flagrelease.verdict.stats.spending import Walk
from flagrelease.verdict.types import ALPHA, BASELINE_WEIGHT, FAIL_ALPHA, RESERVE, Verdict

Floats = NDArray[np.float64]
Random = np.random.Generator


# Data: how hard the questions are, and what is lost.


def expit(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


def difficulty(kind: str, random: Random, shape: tuple[int, int]) -> Floats:
    """The probability of a right answer, (runs, questions)."""
    if kind == "ushape":
        return expit(random.normal(0.3, 3, shape))
    if kind == "flat":
        return random.uniform(0.3, 0.7, shape)
    if kind == "bimodal":
        return np.where(random.random(shape) < 0.7, random.uniform(0.94, 1, shape), random.uniform(0, 0.06, shape))
    if kind == "strong":
        return 1 - random.beta(0.15, 2.0, shape)
    if kind == "weak":
        return random.beta(0.25, 1.75, shape)
    if kind == "binary":
        return (random.random(shape) < 0.7).astype(float)
    raise ValueError(kind)


def lose(kind: str, p: Floats, loss: float, random: Random) -> Floats:
    """The candidate's probabilities, with a mean exactly `loss` lower than that of `p` in each run."""
    if kind == "logit":
        return _shifted(p, p, loss)
    if kind == "mixed":
        moved = np.clip(p + random.choice([-0.25, 0.0, 0.25], p.shape), 0, 1)
        return _shifted(moved, p, loss)
    share = {"break": 1.0, "half": 0.5}[kind]
    order = random.permuted(np.tile(np.arange(p.shape[1]), (len(p), 1)), axis=1)
    most = np.take_along_axis(p, order, axis=1) * share
    before = np.cumsum(most, axis=1) - most
    lost = np.clip(loss * p.shape[1] - before, 0, most)
    q = p.copy()
    np.put_along_axis(q, order, np.take_along_axis(p, order, axis=1) - lost, axis=1)
    return q


def _shifted(p: Floats, against: Floats, loss: float) -> Floats:
    """`p` moved alike on the logit scale until its mean is that of `against` − `loss`; by bisection."""
    x = np.log(np.clip(p, 1e-9, 1 - 1e-9) / np.clip(1 - p, 1e-9, 1))
    wanted = against.mean(axis=1, keepdims=True) - loss
    low, high = np.full((len(p), 1), -30.0), np.full((len(p), 1), 30.0)
    for _ in range(60):
        middle = (low + high) / 2
        above = expit(x + middle).mean(axis=1, keepdims=True) > wanted
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return expit(x + high)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A benchmark with its difficulty."""

    name: str
    n: int
    repeats: int
    """Of the kept baseline; the candidate gets as many on average."""
    margin: float
    kind: str
    story: int = 1
    """Questions that share a story: their difficulties and what is broken are the same."""
    rho: float = 0.0
    """Share of the repeats in which both stacks draw the same random number."""
    population: int = 0
    """Questions of the complete benchmark, of which `n` are asked; 0 for all."""
    served: bool = False
    """Whether both sides are asked, as on a CPU, instead of the candidate against a complete baseline."""
    level: float = ALPHA
    """The level of PASS; a release's attempts have lower ones."""
    weight: float = 0.0
    """Of a kept baseline's standard error in the bound of PASS."""

    def sides(self, loss: float, how: str, random: Random, runs: int) -> tuple[Floats, Floats]:
        """Both sides' probabilities for the questions that are asked; the loss is that of the complete benchmark."""
        p = difficulty(self.kind, random, (runs, -(-(self.population or self.n) // self.story)))
        q = lose(how, p, loss, random) if loss else p
        return tuple(np.repeat(each, self.story, axis=1)[:, : self.n] for each in (p, q))  # type: ignore[return-value]


# Decisions: many group-sequential evaluations at once.


class Many:
    """Evaluations of a setting, one in each row of `p` and `q`."""

    def __init__(
        self,
        setting: Setting,
        p: Floats,
        q: Floats,
        random: Random,
        fail_alpha: float = FAIL_ALPHA,
        right: Floats | None = None,
    ) -> None:
        """`right` has the baseline's right answers to each question; by default they are drawn."""
        self.setting, self.random = setting, random
        self.q, self.p = q, p
        self.design = Design(
            questions=setting.n,
            margin=setting.margin,
            repeats=setting.repeats,
            alpha=setting.level,
            fail_alpha=fail_alpha,
            reserve=RESERVE,
            baseline_weight=setting.weight,
        )
        self.alive = np.arange(len(p))
        self.verdict, self.answers = np.zeros(len(p), np.int64), np.zeros(len(p))
        self.cluster = np.arange(setting.n) // setting.story
        self.monitor = self.design.monitor(len(p))
        self.number = 0
        self.reference = not setting.served and setting.repeats > 1
        self.noise, self.mean = np.zeros(len(p)), np.zeros_like(p)
        self.progress = Progress.start(len(p), setting.n)
        self.shared: Floats | None = None
        if self.reference:
            self._refer(self._baseline() if right is None else right)

    def _baseline(self) -> Floats:
        """Draw the baseline, and the candidate's answers that share its randomness."""
        shape = self.p.shape
        right, shared = np.zeros(shape), []
        for _ in range(self.setting.repeats):
            u = self.random.random(shape)
            right += u < self.p
            if self.setting.rho:
                same = self.random.random(shape) < self.setting.rho
                shared.append(np.where(same, u, self.random.random(shape)) < self.q)
        if shared:
            self.shared = np.concatenate([np.zeros((1, *shape)), np.cumsum(shared, axis=0)])
        return right

    def _refer(self, right: Floats) -> None:
        k, shape = self.setting.repeats, self.p.shape
        self.mean = right / k
        self.noise = (self.mean * (1 - self.mean) / (k - 1)).sum(axis=1) / shape[1] ** 2
        self.progress = Progress.against(right, np.full(shape, k))

    def run(self) -> Many:
        if not self.reference:
            self._breadth()
        while len(self.alive):
            pairs = self.design.stage_pairs(self.progress, self.number + 1, self.noise)
            stage = allocate(self.progress.variance(), pairs, self.random.random(len(self.alive)))
            known = stage.count * self.mean if self.reference else self._drawn(stage.count, self.p)
            self.progress = self.progress.depth(stage, known, self._candidate(stage.count))
            self._look()
        return self

    def _breadth(self) -> None:
        parts, repeats = self.design.opening
        for rows in np.array_split(self.random.permutation(self.setting.n), parts):
            if len(self.alive):
                chunk = np.zeros(self.setting.n, bool)
                chunk[rows] = True
                count = np.where(chunk, repeats, 0) * np.ones_like(self.p, np.int64)
                before, after = self._both(count)
                self.progress = self.progress.breadth(chunk, repeats, before, after)
                self._look()

    def _both(self, count: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """One answer of each side to each question of a chunk, some of them with the same random number."""
        if count.max() > 1 or not self.setting.rho:
            return self._drawn(count, self.p), self._drawn(count, self.q)
        u, v = self.random.random(self.p.shape), self.random.random(self.p.shape)
        same = self.random.random(self.p.shape) < self.setting.rho
        return (u < self.p) * count * 1.0, (np.where(same, u, v) < self.q) * count * 1.0

    def _drawn(self, count: NDArray[np.int64], p: Floats) -> Floats:
        return self.random.binomial(count, p).astype(float)

    def _candidate(self, count: NDArray[np.int64]) -> Floats:
        if self.shared is None if self.reference else True:
            return self._drawn(count, self.q)
        start = np.minimum(self.progress.asked, self.setting.repeats)
        end = np.minimum(self.progress.asked + count, self.setting.repeats)
        taken = [np.take_along_axis(self.shared, at[None], axis=0)[0] for at in (start, end)]
        return np.asarray(taken[1] - taken[0] + self._drawn(count - (end - start), self.q))

    def _look(self) -> None:
        self.number += 1
        spent = self.progress.pairs >= self.design.budget
        opened = int(self.progress.opened.sum())
        population = self.setting.population or self.setting.n
        stories = len(np.unique(self.cluster[self.progress.opened]))
        estimate, margin = self.progress.estimate(self.cluster), self.setting.margin
        questions, answers = opened if opened >= population else stories, self.progress.pairs
        self.monitor, look = self.monitor.look(
            estimate,
            spent,
            lower=lambda error: loss_error(error, margin, questions=questions, answers=answers, population=population),
            floor=lambda error: kept_error(error, np.sqrt(self.noise), self.design.baseline_weight),
        )
        ended = (look.decision != 0) | spent
        if not self.design.reserve:
            ended |= look.time >= 1
        self.verdict[self.alive[ended]] = look.decision[ended]
        self.answers[self.alive[ended]] = self.progress.pairs[ended]
        self._keep(~ended)

    def _keep(self, lane: NDArray[np.bool_]) -> None:
        self.alive, self.p, self.q = self.alive[lane], self.p[lane], self.q[lane]
        self.noise, self.mean = self.noise[lane], self.mean[lane]
        if self.reference and self.shared is not None:
            self.shared = self.shared[:, lane]
        fields = ("asked", "known", "right", "signal", "weight")
        self.progress = replace(self.progress, **{name: getattr(self.progress, name)[lane] for name in fields})
        alike = self.monitor.passing is self.monitor.failing
        passing = _rows(self.monitor.passing, lane)
        failing = passing if alike else _rows(self.monitor.failing, lane)
        shown = self.monitor.shown and _rows(self.monitor.shown, lane)
        self.monitor = replace(self.monitor, passing=passing, failing=failing, shown=shown)

    @property
    def passed(self) -> float:
        return float((self.verdict == PASS).mean())

    @property
    def failed(self) -> float:
        return float((self.verdict == FAIL).mean())


def _rows(walk: Walk, lane: NDArray[np.bool_]) -> Walk:
    return Walk(walk.time[lane], walk.place[lane], walk.mass[lane])


def simulate(setting: Setting, loss: float, how: str, *, runs: int, seed: int, fail_alpha: float = FAIL_ALPHA) -> Many:
    random = np.random.default_rng([seed, sum(map(ord, setting.name + setting.kind + how))])
    return Many(setting, *setting.sides(loss, how, random, runs), random, fail_alpha).run()


# Tables.

AIME = Setting(name="AIME", n=30, repeats=16, margin=0.05, kind="ushape")
GPQA_D = Setting(name="GPQA-diamond", n=198, repeats=8, margin=0.05, kind="ushape")
GPQA = Setting(name="GPQA, nested sets", n=1192, repeats=2, margin=0.05, kind="ushape", story=2)
IFEVAL = Setting(name="IFEval", n=541, repeats=2, margin=0.03, kind="strong")
LIVEBENCH = Setting(name="LiveBench", n=1000, repeats=2, margin=0.03, kind="ushape")
MUSR = Setting(name="MuSR, stories", n=756, repeats=2, margin=0.03, kind="ushape", story=3)
MMLU = Setting(name="MMLU", n=14042, repeats=1, margin=0.01, kind="strong")


def kinds(setting: Setting, *names: str) -> Iterator[Setting]:
    for name in names:
        yield replace(setting, kind=name)


AUDITED = (
    *kinds(AIME, "ushape", "bimodal", "strong", "binary"),
    replace(AIME, rho=0.5),
    replace(AIME, served=True, kind="strong"),
    *kinds(GPQA_D, "ushape", "flat", "strong", "bimodal", "binary"),
    *kinds(GPQA, "ushape", "strong"),
    *kinds(IFEVAL, "strong", "ushape"),
    LIVEBENCH,
    MUSR,
    replace(MMLU, kind="binary"),
    MMLU,
    *kinds(replace(GPQA_D, name="GPQA-diamond, 50 of 198", n=50, repeats=4, population=198), "ushape", "strong"),
    *kinds(replace(MMLU, name="400 of 2,000, greedy", n=400, margin=0.05, population=2000), "binary", "strong"),
)
HOW = ("logit", "break", "half", "mixed")

# The profile `full` of matrix.yaml, in a first attempt.
FULL = tuple(
    replace(setting, level=level(1), weight=BASELINE_WEIGHT)
    for setting in (
        replace(AIME, repeats=128),
        replace(GPQA, repeats=4),
        replace(LIVEBENCH, repeats=12),
        replace(MUSR, repeats=16),
        replace(MMLU, rho=0.9),
    )
)


def at_margin(runs: int, seed: int, only: str) -> list[str]:
    """False PASS at a loss of exactly the margin, by setting and loss."""
    rows = ["| setting | difficulty | " + " | ".join(HOW) + " |", "|---" * (2 + len(HOW)) + "|"]
    for setting in AUDITED:
        if only not in setting.name:
            continue
        count = max(runs // 10, 50) if setting.n > 5000 else runs
        cells = []
        for how in HOW:
            share = simulate(setting, setting.margin, how, runs=count, seed=seed).passed
            cells.append(f"{100 * share:.1f} ± {100 * np.sqrt(max(share, 1 / count) * (1 - share) / count):.1f}")
        more = "".join([", rho 0.5" * bool(setting.rho), ", both asked" * setting.served])
        rows.append(f"| {setting.name} {setting.n}×{setting.repeats}{more} | {setting.kind} | {' | '.join(cells)} |")
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def equal(runs: int, seed: int, only: str) -> list[str]:
    """Identical stacks: PASS, false FAIL, the candidate's answers; and the power of a cell with all of them."""
    rows = ["| benchmark | repeats | PASS | false FAIL | answers | of at most |", "|---" * 6 + "|"]
    power, wrong = 1.0, 0.0
    for setting in FULL:
        if only not in setting.name:
            continue
        count = max(runs // 10, 50) if setting.n > 5000 else runs
        found = simulate(setting, 0.0, "logit", runs=count, seed=seed)
        power, wrong = power * found.passed, 1 - (1 - wrong) * (1 - found.failed)
        rows.append(
            f"| {setting.name} | {setting.repeats} | {found.passed:.3f} | {found.failed:.3f} "
            f"| {found.answers.mean():,.0f} | {setting.n * setting.repeats:,} |"
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return [*rows, f"| the cell | | {power:.3f} | {wrong:.3f} | | |"]


def designs(_runs: int, _seed: int, _only: str) -> list[str]:
    """By exact integration: ways to go on, with a budget of 2.4 times the fixed design of power 0.90, FAIL at 1 %."""
    plain: dict[str, Any] = {"questions": 100, "margin": 0.05, "repeats": 20, "fail_alpha": FAIL_ALPHA}
    ways = {
        "planned for power 0.90, ends there": Design(**plain),
        "planned for power 0.985": Design(**plain, power=0.985, looks=20),
        "planned for power 0.985, spent as t^0.5": Design(**plain, power=0.985, looks=20, exponent=0.5),
        "planned for power 0.90, a tenth of α in reserve": Design(**plain, reserve=0.1),
        "planned for power 0.90, a fifth of α in reserve": Design(**plain, reserve=0.2),
        "planned for power 0.90, two fifths of α in reserve": Design(**plain, reserve=0.4),
    }
    fixed = GUESS * ((1.6448536 + 1.2815516) / 0.05) ** 2
    head = ("design", "no loss", "half of the margin", "the margin", "twice the margin")
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, design in ways.items():
        ends = [outlook(design, loss) for loss in (0.0, 0.025, 0.05, 0.1)]
        cells = [f"{end.passes:.3f} / {end.fails:.3f} / {end.pairs / fixed:.2f}" for end in ends]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def side(scores: NDArray[np.bool_], letters: NDArray[np.str_]) -> list[Sample]:
    """One answer to each question; an empty letter is no answer."""
    return [
        Sample(
            benchmark="b",
            subset="",
            question_id=f"q{row}",
            prompt_sha256="0" * 64,
            repeat=0,
            correct=bool(right),
            answer=str(letter) or None,
            finish_reason="stop",
            completion_tokens=1,
            latency_s=None,
            error=None,
        )
        for row, (right, letter) in enumerate(zip(scores, letters, strict=True))
    ]


def skill(runs: int, seed: int, only: str) -> list[str]:
    """PASS of candidates without the skill. Questions have four letters; the baseline knows a share of them."""
    rows = ["| candidate | baseline | chance | n | margin | PASS |", "|---" * 6 + "|"]
    letters = np.array(list("ABCD"))
    cases: list[tuple[str, float, float, int, float, Callable[[NDArray[np.str_]], NDArray[np.str_]]]] = []
    for knows, chance, n, margin in ((0.0125, 0.0, 880, 0.02), (0.01, 0.0, 480, 0.05), (0.3, 0.25, 400, 0.05)):
        cases.append(("dead", knows, chance, n, margin, lambda right: np.where(right == "A", "B", "A")))
        cases.append(("silent", knows, chance, n, margin, lambda right: np.full(len(right), "")))
        cases.append(("always A", knows, chance, n, margin, lambda right: np.full(len(right), "A")))
        cases.append(("always refuses", knows, chance, n, margin, lambda right: np.full(len(right), "I cannot")))
    cases.append(("silent, as is the baseline", 0.0, 0.0, 400, 0.05, lambda right: np.full(len(right), "")))
    for name, knows, chance, n, margin, answer in cases:
        if only not in name:
            continue
        random, passed = np.random.default_rng([seed, n]), 0
        for _ in range(runs):
            right = letters[random.integers(0, 4, n)]
            known = random.random(n) < knows
            wrong = np.where(right == "A", "B", "A")
            first = np.where(known, right, np.where(knows > 0, wrong, ""))
            then = answer(right)
            before, after = side(first == right, first), side(then == right, then)
            found = compare(before, after, margins={"b": margin}, chances={"b": chance})
            passed += found.verdict is Verdict.PASS
        rows.append(f"| {name} | {knows} | {chance} | {n} | {margin} | {passed} of {runs} |")
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


TABLES = {"designs": designs, "margin": at_margin, "equal": equal, "skill": skill}


Table = Callable[[int, int, str], list[str]]
"""The rows of a table from the number of simulations, the seed, and a part of the settings' names."""


def print_tables(text: str | None, tables: Mapping[str, Table], *, runs: int, fewer: str) -> None:
    """Print the tables that the command line names; `runs` simulations by default, and `fewer` for large ones."""
    arguments = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(tables)}; default: all")
    arguments.add_argument("--runs", type=int, default=runs, help=f"simulations of each setting; {fewer}")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--only", default="", help="only settings whose name contains this")
    chosen = arguments.parse_args()
    for name in chosen.tables or tables:
        print(f"\n{name}\n")
        print("\n".join(tables[name](chosen.runs, chosen.seed, chosen.only)))


if __name__ == "__main__":
    print_tables(__doc__, TABLES, runs=1000, fewer="a tenth for MMLU")
