"""A sequential evaluation as a pure object: told what was answered, it says what to ask next or the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtri

from flagrelease.errors import ComparisonRefused
from flagrelease.verdict.stats.paired import Floats, Ints
from flagrelease.verdict.stats.sequential import Estimate, Look, Monitor, Progress, allocate
from flagrelease.verdict.stats.spending import Walk, inflation
from flagrelease.verdict.types import Answer, Ask, Decision, Ground

__all__ = ["Design", "Item", "SequentialEvaluation"]


@dataclass(frozen=True, kw_only=True)
class Design:
    """What is decided before the first question is asked.

    PASS rejects "the loss is `margin`" at one-sided `alpha`, FAIL rejects "there is no loss" at one-sided
    `fail_alpha` (divide it by the number of benchmarks); both levels hold over all looks together. `power` is the
    chance of PASS at no loss. `repeats` caps the answers to a question on average, so that `budget` pairs are the
    most. `variance` of the difference of one pair is only guessed, to size the first stage: 2·p(1−p) ≈ 0.25.
    """

    questions: int
    margin: float
    repeats: int
    alpha: float = 0.05
    fail_alpha: float = 0.05
    power: float = 0.90
    looks: int = 10
    exponent: float = 1.0
    variance: float = 0.25

    @cached_property
    def information(self) -> float:
        """1/variance of the difference at which the design ends: the fixed design's, inflated."""
        factor = inflation(looks=self.looks, alpha=self.alpha, power=self.power, exponent=self.exponent)
        return factor * float((ndtri(1 - self.alpha) + ndtri(self.power)) / self.margin) ** 2

    @property
    def budget(self) -> int:
        return self.questions * self.repeats

    @property
    def opening(self) -> tuple[int, int]:
        """How the first round is cut: into so many parts, in which each question is asked so many times."""
        stage = self.information * self.variance / self.looks
        if stage >= self.questions:
            return 1, min(max(round(stage / self.questions), 1), self.repeats)
        return min(int(np.ceil(self.questions / stage)), self.looks), 1

    @property
    def planned(self) -> int:
        """The most looks that are planned: one a part where each question is asked once, else `looks`."""
        return self.opening[0] if self.repeats == 1 else self.looks

    def stage_pairs(self, progress: Progress, number: int, reference_variance: Floats | float = 0.0) -> Floats:
        """How many pairs stage `number` (from 1) asks: enough for the next planned look, within the budget.

        `reference_variance` is what a baseline that was answered before adds to the variance of the difference,
        whatever is asked now; equal steps of information then take more and more answers.
        """
        each = np.sqrt(progress.variance()).mean(axis=1) ** 2
        step = min(number, self.looks)
        edges = []
        for look in (step - 1, step):
            room = self.looks / (max(look, 1e-9) * self.information) - reference_variance
            edges.append(np.where(room > 0, each / np.maximum(room, 1e-12), np.inf))
        out_of_reach = ~np.isfinite(edges[1])
        wanted = np.where(out_of_reach, self.budget / self.looks, edges[1] - np.where(out_of_reach, 0.0, edges[0]))
        return np.asarray(np.minimum(np.maximum(np.ceil(wanted), 1), self.budget - progress.pairs))

    def monitor(self, evaluations: int = 1) -> Monitor:
        passing = Walk.start(evaluations)
        failing = passing if self.alpha == self.fail_alpha else Walk.start(evaluations)
        return Monitor(self.margin, self.information, self.alpha, self.fail_alpha, self.exponent, passing, failing)


@dataclass(frozen=True, order=True)
class Item:
    """A question's name within its benchmark, and the story it belongs to."""

    subset: str
    question_id: str
    story: str


@dataclass(frozen=True, kw_only=True)
class SequentialEvaluation:
    """A design over named questions.

    Everything follows from the answers and `seed`: a killed evaluation that asks again gets the same plan, less
    what has been answered. Answers that the plan did not ask for (a baseline with more repeats) are left alone.

    With `reference` the baseline was evaluated before, at least twice for each question, and is not asked: all its
    answers are used, and they tell from the first stage on which questions still carry variance.
    """

    design: Design
    items: Sequence[Item]
    seed: int = 0
    reference: bool = False

    def next(self, baseline: Mapping[Answer, float], candidate: Mapping[Answer, float]) -> Ask | Decision:
        """What is missing for the next look, or the verdict when there is nothing left to ask."""
        replay = _Replay(self, baseline, candidate)
        for look, stage in enumerate(replay.stages(), start=1):
            if isinstance(stage, Ask):
                return stage
            if stage:
                return replay.decision(look)
        raise AssertionError("stages end with a decision")

    @cached_property
    def cluster(self) -> Ints:
        return np.asarray(np.unique([item.story for item in self.items], return_inverse=True)[1])

    def chunks(self) -> list[Ints]:
        """The parts of the first round, in random order, so that each is a sample of the benchmark."""
        parts, _ = self.design.opening
        order = np.random.default_rng([self.seed, 0]).permutation(len(self.items))
        return list(np.array_split(order, parts))


class _Replay:
    """The evaluation so far, stage by stage, as its answers tell it."""

    def __init__(
        self, evaluation: SequentialEvaluation, baseline: Mapping[Answer, float], candidate: Mapping[Answer, float]
    ) -> None:
        self._evaluation = evaluation
        self._sides = (baseline, candidate)
        self._progress = Progress.start(1, len(evaluation.items))
        self._mean, self._reference_variance = np.zeros(len(evaluation.items)), 0.0
        self._alike: list[float] = []  # scores of the baseline on questions that were asked alike
        if evaluation.reference:
            self._refer(baseline)
        self._monitor = evaluation.design.monitor()
        self._look: Look | None = None
        self._estimate: Estimate | None = None

    def _refer(self, baseline: Mapping[Answer, float]) -> None:
        """Take the baseline as it is. Raises ComparisonRefused where a question has fewer than two answers."""
        row = {(item.subset, item.question_id): number for number, item in enumerate(self._evaluation.items)}
        known = [(row[subset, question], score) for (subset, question, _), score in baseline.items()]
        rows, scores = np.array([r for r, _ in known], np.int64), np.array([s for _, s in known], np.float64)
        count = np.bincount(rows, minlength=len(row))
        if (few := int((count < 2).sum())) > 0:
            raise ComparisonRefused(
                f"{few} of {len(row)} questions have fewer than two answers of the baseline",
                hint="evaluate the baseline with repeats, or ask both sides",
            )
        total, squares = (np.bincount(rows, weights=x, minlength=len(row)) for x in (scores, scores**2))
        spread = (squares - total**2 / count) / (count - 1)
        self._mean = total / count
        self._alike = self._mean.tolist()
        self._reference_variance = float((spread / count).sum()) / len(row) ** 2
        self._progress = Progress.against(total[None, :].astype(np.float64), count[None, :])

    def stages(self) -> Iterator[Ask | bool]:
        """An Ask where answers are missing; otherwise whether the look after the stage ended the evaluation."""
        number = 0
        for rows in () if self._evaluation.reference else self._evaluation.chunks():
            number += 1
            yield self._breadth(rows, number)
        while True:
            number += 1
            yield self._depth(number)

    def _breadth(self, rows: Ints, number: int) -> Ask | bool:
        repeats = self._evaluation.design.opening[1]
        count = np.zeros(len(self._evaluation.items), np.int64)
        count[rows] = repeats
        if ask := self._missing(count, number):
            return ask
        baseline, candidate = self._sums(count)
        self._alike += (baseline[0, rows] / repeats).tolist()
        self._progress = self._progress.breadth(count > 0, repeats, baseline, candidate)
        return self._judge()

    def _depth(self, number: int) -> Ask | bool:
        start = np.random.default_rng([self._evaluation.seed, number]).random(1)
        pairs = self._evaluation.design.stage_pairs(self._progress, number, self._reference_variance)
        stage = allocate(self._progress.variance(), pairs, start)
        if ask := self._missing(stage.count[0], number):
            return ask
        self._progress = self._progress.depth(stage, *self._sums(stage.count[0]))
        return self._judge()

    def _wanted(self, count: Ints) -> list[Answer]:
        before = self._progress.asked[0]
        return [
            (item.subset, item.question_id, int(before[row]) + repeat)
            for row, item in enumerate(self._evaluation.items)
            for repeat in range(int(count[row]))
        ]

    def _missing(self, count: Ints, look: int) -> Ask | None:
        wanted = self._wanted(count)
        baseline, candidate = (tuple(one for one in wanted if one not in side) for side in self._sides)
        if self._evaluation.reference:
            baseline = ()
        return Ask(look=look, baseline=baseline, candidate=candidate) if baseline or candidate else None

    def _sums(self, count: Ints) -> tuple[Floats, Floats]:
        rows = np.repeat(np.arange(len(count)), count)
        wanted = self._wanted(count)

        def total(side: Mapping[Answer, float]) -> Floats:
            scores = np.array([side[one] for one in wanted], np.float64)
            return np.bincount(rows, weights=scores, minlength=len(count))[None, :].astype(np.float64)

        baseline, candidate = self._sides
        known = (self._mean * count)[None, :] if self._evaluation.reference else total(baseline)
        return known, total(candidate)

    def _judge(self) -> bool:
        design = self._evaluation.design
        self._estimate = self._progress.estimate(self._evaluation.cluster)
        spent = self._progress.pairs >= design.budget
        self._monitor, self._look = self._monitor.look(self._estimate, spent)
        return bool(spent[0] or self._look.decision[0] or self._look.time[0] >= 1)

    def decision(self, looks: int) -> Decision:
        assert self._look is not None  # noqa: S101 - stages() judged before it told that this is the end
        assert self._estimate is not None  # noqa: S101
        evidence, ruling = self._look.evidence[0], self._look.rulings[0]
        pairs = int(self._progress.pairs[0])
        score, difference = float(np.mean(self._alike)), float(self._estimate.difference[0])
        return Decision(
            evidence=evidence,
            ruling=ruling,
            n=int(self._progress.opened.sum()),
            pairs=pairs,
            looks=looks,
            baseline_score=score,
            candidate_score=min(max(score + difference, 0.0), 1.0),
            difference=difference,
            counts=tuple(self._progress.asked[0].tolist()),
            more_answers=self._more(pairs) if ruling.ground is Ground.UNDECIDED else None,
        )

    def _more(self, pairs: int) -> int:
        """Pairs still lacking: for PASS at no loss or, where even those did not do, for the side that is nearer."""
        assert self._estimate is not None  # noqa: S101
        design = self._evaluation.design
        d, error = float(self._estimate.difference[0]), float(self._estimate.error[0])
        z, with_power = float(ndtri(1 - design.alpha)), float(ndtri(design.power))
        needed = pairs * ((z + with_power) * error / design.margin) ** 2
        if needed <= pairs:
            needed = pairs * ((z + with_power) * error / max(d + design.margin, -d)) ** 2
        return max(int(np.ceil(needed)) - pairs, 1)
