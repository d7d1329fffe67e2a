"""Simulated evaluations: generators of data that share no code with the product, and many evaluations at once.

The estimand is the benchmark as it is: its own questions, repeats without end. A loss is therefore exact on the
questions of each run. Decisions are made by the product's functions: `Progress`, `allocate`, `Design` and `Monitor`,
with `rule.decide`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "pipeline"))

from flagrelease.verdict.attempts import level
from flagrelease.verdict.group_sequential import interim_analyses
from flagrelease.verdict.stats.design import Design
from flagrelease.verdict.stats.paired import kept_error, loss_error
from flagrelease.verdict.stats.sequential import FAIL, PASS, Progress, allocate
from flagrelease.verdict.stats.spending import Walk
from flagrelease.verdict.types import ALPHA, BASELINE_WEIGHT, FAIL_ALPHA, RESERVE

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Random = np.random.Generator


# Data: how hard the questions are, and what is lost.


def expit(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


SUBJECTS = 57


def subjects(questions: int) -> Ints:
    """The number of each question's subject; the largest has fifteen times as many questions as the smallest."""
    sizes = np.geomspace(1, 15, SUBJECTS)
    return np.searchsorted(np.cumsum(sizes) / sizes.sum(), (np.arange(questions) + 0.5) / questions)


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
    if kind == "subjects":
        return expit(random.normal(1, 1, (shape[0], SUBJECTS))[:, subjects(shape[1])] + random.normal(0.3, 1.5, shape))
    raise ValueError(kind)


def lose(
    kind: str, p: Floats, loss: float, random: Random, weight: Ints | None = None, group: Ints | None = None
) -> Floats:
    """The candidate's probabilities, with a mean exactly `loss` lower than that of `p` in each run.

    `weight` has the number of questions of each story, `group` the number of its subject: a loss in a part of the
    questions is then one in whole subjects.
    """
    size = np.ones(p.shape[1]) if weight is None else weight.astype(float)
    if kind == "logit":
        return _shifted(p, p, loss, size)
    if kind == "mixed":
        moved = np.clip(p + random.choice([-0.25, 0.0, 0.25], p.shape), 0, 1)
        return _shifted(moved, p, loss, size)
    share = {"break": 1.0, "half": 0.5}[kind]
    group = np.arange(p.shape[1]) if group is None else group
    order = np.argsort(random.random((len(p), int(group.max()) + 1))[:, group], axis=1, kind="stable")
    most = np.take_along_axis(p * size, order, axis=1) * share
    before = np.cumsum(most, axis=1) - most
    lost = np.clip(loss * size.sum() - before, 0, most) / size[order]
    q = p.copy()
    np.put_along_axis(q, order, np.take_along_axis(p, order, axis=1) - lost, axis=1)
    return np.clip(q, 0, 1)


def _shifted(p: Floats, against: Floats, loss: float, size: Floats) -> Floats:
    """`p` moved alike on the logit scale until its mean is that of `against` − `loss`; by bisection."""
    x = np.log(np.clip(p, 1e-9, 1 - 1e-9) / np.clip(1 - p, 1e-9, 1))
    share = size / size.sum()
    wanted = (against @ share)[:, None] - loss
    low, high = np.full((len(p), 1), -30.0), np.full((len(p), 1), 30.0)
    for _ in range(60):
        middle = (low + high) / 2
        above = (expit(x + middle) @ share)[:, None] > wanted
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
    stories: tuple[tuple[int, int], ...] = ()
    """Numbers of stories and of the questions that share one: their difficulties and what is broken are the same. By
    default each question has its own."""
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

    known: int = 0
    """Repeats of the kept baseline, if others than those of the candidate."""
    by_variance: bool = True
    """Whether half of a stage is allocated by variance; otherwise equally."""
    further: tuple[tuple[str, Any], ...] = ()
    """Other parameters of the design than those of a release."""
    guarded: bool = True
    """Whether the lower bound has the standard error of a loss that was not seen (`paired.loss_error`)."""

    @property
    def kept(self) -> int:
        """Repeats of the kept baseline."""
        return self.known or self.repeats

    @property
    def sizes(self) -> Ints:
        """The number of questions of each story."""
        if not self.stories:
            return np.ones(self.population or self.n, np.int64)
        return np.repeat(*np.array([(size, number) for number, size in self.stories]).T)

    @property
    def cluster(self) -> Ints:
        """The number of each question's story."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)[: self.n]

    @property
    def in_release(self) -> Setting:
        """This benchmark in the first attempt of a release."""
        return replace(self, level=level(1), weight=BASELINE_WEIGHT)

    def sides(self, loss: float, how: str, random: Random, runs: int) -> tuple[Floats, Floats]:
        """Both sides' probabilities for the questions that are asked; the loss is that of the complete benchmark."""
        sizes = self.sizes
        p = difficulty(self.kind, random, (runs, len(sizes)))
        group = subjects(len(sizes)) if self.kind == "subjects" else None
        q = lose(how, p, loss, random, sizes, group) if loss else p
        if self.stories:
            return p[:, self.cluster], q[:, self.cluster]
        return p[:, : self.n], q[:, : self.n]


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
        parameters: dict[str, Any] = {
            "questions": setting.n,
            "margin": setting.margin,
            "repeats": setting.repeats,
            "alpha": setting.level,
            "looks": interim_analyses(setting.margin, setting.repeats),
            "fail_alpha": fail_alpha,
            "reserve": RESERVE,
            "baseline_weight": setting.weight,
        }
        self.design = Design(**parameters | dict(setting.further))
        self.alive = np.arange(len(p))
        self.verdict, self.answers = np.zeros(len(p), np.int64), np.zeros(len(p))
        self.cluster = setting.cluster
        self.monitor = self.design.monitor(len(p))
        self.number = 0
        self.reference = not setting.served and setting.kept > 1
        self.noise, self.mean = np.zeros(len(p)), np.zeros_like(p)
        self.progress = Progress.start(len(p), setting.n)
        self.shared: Floats | None = None
        if self.reference:
            self._refer(self._baseline() if right is None else right)

    def _baseline(self) -> Floats:
        """Draw the baseline, and the candidate's answers that share its randomness."""
        shape = self.p.shape
        right, shared = np.zeros(shape), []
        for _ in range(self.setting.kept):
            u = self.random.random(shape)
            right += u < self.p
            if self.setting.rho:
                same = self.random.random(shape) < self.setting.rho
                shared.append(np.where(same, u, self.random.random(shape)) < self.q)
        if shared:
            self.shared = np.concatenate([np.zeros((1, *shape)), np.cumsum(shared, axis=0)])
        return right

    def _refer(self, right: Floats) -> None:
        k, shape = self.setting.kept, self.p.shape
        self.mean = right / k
        self.noise = (self.mean * (1 - self.mean) / (k - 1)).sum(axis=1) / shape[1] ** 2
        self.progress = Progress.against(right, np.full(shape, k))

    def run(self) -> Many:
        if not self.reference:
            self._breadth()
        while len(self.alive):
            pairs = self.design.stage_pairs(self.progress, self.number + 1, self.noise)
            variance = self.progress.variance()
            if not self.setting.by_variance:
                variance = np.ones_like(variance)
            stage = allocate(variance, pairs, self.random.random(len(self.alive)))
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
        start = np.minimum(self.progress.asked, self.setting.kept)
        end = np.minimum(self.progress.asked + count, self.setting.kept)
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
            lower=lambda error: (
                loss_error(error, margin, questions=questions, answers=answers, population=population)
                if self.setting.guarded
                else error
            ),
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


def simulate(
    setting: Setting, loss: float, how: str, *, runs: int, seed: int, fail_alpha: float = FAIL_ALPHA, part: int = 0
) -> Many:
    """`part` is the number of an independent repetition."""
    name = f"{setting.name} {setting.kind} {how} {loss}"
    random = np.random.default_rng([seed, crc32(name.encode()), part])
    return Many(setting, *setting.sides(loss, how, random, runs), random, fail_alpha).run()


# The benchmarks of the audit, and those of the profile `full`.

AIME = Setting(name="AIME", n=30, repeats=16, margin=0.05, kind="ushape")
GPQA_D = Setting(name="GPQA-diamond", n=198, repeats=8, margin=0.05, kind="ushape")
GPQA = Setting(
    name="GPQA, nested sets", n=1192, repeats=2, margin=0.05, kind="ushape", stories=((198, 3), (250, 2), (98, 1))
)
IFEVAL = Setting(name="IFEval", n=541, repeats=2, margin=0.03, kind="strong")
LIVEBENCH = Setting(name="LiveBench", n=1000, repeats=2, margin=0.03, kind="ushape")
MUSR = Setting(name="MuSR, stories", n=756, repeats=2, margin=0.03, kind="ushape", stories=((252, 3),))
MMLU = Setting(name="MMLU", n=14042, repeats=1, margin=0.01, kind="strong")


def kinds(setting: Setting, *names: str) -> Iterator[Setting]:
    for name in names:
        yield replace(setting, kind=name)


AUDITED = (
    *kinds(AIME, "ushape", "bimodal", "strong", "binary"),
    replace(AIME, rho=0.5),
    replace(AIME, served=True, kind="strong"),
    *kinds(GPQA_D, "ushape", "flat", "strong", "bimodal", "binary"),
    *kinds(GPQA, "ushape", "strong", "weak"),
    replace(GPQA, rho=0.5),
    *kinds(IFEVAL, "strong", "ushape", "weak"),
    *kinds(LIVEBENCH, "ushape", "strong", "weak"),
    replace(LIVEBENCH, rho=0.5),
    *kinds(MUSR, "ushape", "strong", "flat"),
    replace(MUSR, rho=0.5),
    *kinds(MMLU, "binary", "strong", "subjects"),
    replace(MMLU, rho=0.9, kind="subjects"),
    *kinds(replace(GPQA_D, name="GPQA-diamond, 50 of 198", n=50, repeats=4, population=198), "ushape", "strong"),
    *kinds(replace(MMLU, name="400 of 2,000, greedy", n=400, margin=0.05, population=2000), "binary", "strong"),
)
HOW = ("logit", "break", "half", "mixed")

FULL = tuple(
    setting.in_release
    for setting in (
        replace(AIME, repeats=128),
        replace(GPQA, repeats=4),
        replace(LIVEBENCH, repeats=12),
        replace(MUSR, repeats=16),
        replace(MMLU, rho=0.9),
    )
)
"""The profile `full` of matrix.yaml, in a first attempt."""
