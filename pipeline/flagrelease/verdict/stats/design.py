"""The group-sequential design: from the answers so far to the next questions or the decision. Pure."""

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
    """The parameters that are fixed before the first question is asked.

    PASS rejects "the loss is `margin`", FAIL rejects "there is no loss"; both levels hold over all looks together.
    """

    questions: int
    """Questions of the benchmark."""
    margin: float
    """The non-inferiority margin, a fraction."""
    repeats: int
    """The most answers of each side to a question, on average."""
    alpha: float = 0.05
    """The one-sided level of PASS."""
    fail_alpha: float = 0.05
    """The one-sided level of FAIL; to be divided by the number of benchmarks."""
    power: float = 0.90
    """The probability of PASS at no loss."""
    looks: int = 10
    """The number of interim analyses, the final one included."""
    exponent: float = 1.0
    """ρ of the spending function α·t^ρ."""
    variance: float = 0.25
    """Assumed variance of the difference of one pair, to size the first stage: 2·p(1−p) ≈ 0.25."""

    @cached_property
    def information(self) -> float:
        """1/variance of the difference at which the design ends: that of the fixed-sample design, inflated."""
        factor = inflation(looks=self.looks, alpha=self.alpha, power=self.power, exponent=self.exponent)
        return factor * float((ndtri(1 - self.alpha) + ndtri(self.power)) / self.margin) ** 2

    @property
    def budget(self) -> int:
        """The most pairs of answers."""
        return self.questions * self.repeats

    @property
    def opening(self) -> tuple[int, int]:
        """The first round: the number of its parts, and how often each question is asked in it."""
        stage = self.information * self.variance / self.looks
        if stage >= self.questions:
            return 1, min(max(round(stage / self.questions), 1), self.repeats)
        return min(int(np.ceil(self.questions / stage)), self.looks), 1

    @property
    def planned(self) -> int:
        """The most looks that are planned: the parts of the first round if questions are asked once, else `looks`."""
        return self.opening[0] if self.repeats == 1 else self.looks

    def stage_pairs(self, progress: Progress, number: int, reference_variance: Floats | float = 0.0) -> Floats:
        """The number of pairs in stage `number` (from 1): enough for the next planned look, within the budget.

        `reference_variance` is the constant contribution of an earlier baseline to the variance of the difference;
        equal steps of information then require more and more answers.
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
        """The boundaries at the start of the evaluation."""
        passing = Walk.start(evaluations)
        failing = passing if self.alpha == self.fail_alpha else Walk.start(evaluations)
        return Monitor(self.margin, self.information, self.alpha, self.fail_alpha, self.exponent, passing, failing)


@dataclass(frozen=True, order=True)
class Item:
    """A question of a benchmark."""

    subset: str
    """May be empty."""
    question_id: str
    """Unique in the subset."""
    story: str
    """The story or template that it shares with other questions."""


@dataclass(frozen=True, kw_only=True)
class SequentialEvaluation:
    """A design applied to the questions of a benchmark.

    It depends only on the answers and `seed`, so that a killed evaluation resumes with the same plan. Answers that the
    plan does not ask for (a baseline with more repeats) are ignored.
    """

    design: Design
    """Its parameters."""
    items: Sequence[Item]
    """The questions."""
    seed: int = 0
    """Of the order in which questions are asked."""
    reference: bool = False
    """Whether the baseline was completely answered before, at least twice for each question. It is then not asked; all
    of its answers are used, and they show from the first stage on which questions have variance."""

    def next(self, baseline: Mapping[Answer, float], candidate: Mapping[Answer, float]) -> Ask | Decision:
        """The missing answers for the next look, or the decision if nothing is left to ask."""
        replay = _Replay(self, baseline, candidate)
        for look, stage in enumerate(replay.stages(), start=1):
            if isinstance(stage, Ask):
                return stage
            if stage:
                return replay.decision(look)
        raise AssertionError("stages end with a decision")

    @cached_property
    def cluster(self) -> Ints:
        """The number of each question's story, from 0."""
        return np.asarray(np.unique([item.story for item in self.items], return_inverse=True)[1])

    def chunks(self) -> list[Ints]:
        """The parts of the first round, in random order, so that each is a sample of the benchmark."""
        parts, _ = self.design.opening
        order = np.random.default_rng([self.seed, 0]).permutation(len(self.items))
        return list(np.array_split(order, parts))


class _Replay:
    """Replay the stages of an evaluation from its answers."""

    def __init__(
        self, evaluation: SequentialEvaluation, baseline: Mapping[Answer, float], candidate: Mapping[Answer, float]
    ) -> None:
        self._evaluation = evaluation
        self._sides = (baseline, candidate)
        self._progress = Progress.start(1, len(evaluation.items))
        self._mean, self._reference_variance = np.zeros(len(evaluation.items)), 0.0
        self._first_round: list[float] = []  # the baseline's scores from equal numbers of answers to each question
        if evaluation.reference:
            self._refer(baseline)
        self._monitor = evaluation.design.monitor()
        self._look: Look | None = None
        self._estimate: Estimate | None = None

    def _refer(self, baseline: Mapping[Answer, float]) -> None:
        """Use an earlier baseline. Raises ComparisonRefused if a question has fewer than two answers."""
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
        self._first_round = self._mean.tolist()
        self._reference_variance = float((spread / count).sum()) / len(row) ** 2
        self._progress = Progress.against(total[None, :].astype(np.float64), count[None, :])

    def stages(self) -> Iterator[Ask | bool]:
        """For each stage an Ask if answers are missing, otherwise whether its look ends the evaluation."""
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
        self._first_round += (baseline[0, rows] / repeats).tolist()
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
        baseline, candidate = (tuple(answer for answer in wanted if answer not in side) for side in self._sides)
        if self._evaluation.reference:
            baseline = ()
        return Ask(look=look, baseline=baseline, candidate=candidate) if baseline or candidate else None

    def _sums(self, count: Ints) -> tuple[Floats, Floats]:
        rows = np.repeat(np.arange(len(count)), count)
        wanted = self._wanted(count)

        def total(side: Mapping[Answer, float]) -> Floats:
            scores = np.array([side[answer] for answer in wanted], np.float64)
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
        assert self._look is not None  # noqa: S101 - stages() judges before it ends
        assert self._estimate is not None  # noqa: S101
        evidence, ruling = self._look.evidence[0], self._look.rulings[0]
        pairs = int(self._progress.pairs[0])
        score, difference = float(np.mean(self._first_round)), float(self._estimate.difference[0])
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
        """Further pairs for PASS at no loss or, if that many were asked already, for the closer verdict."""
        assert self._estimate is not None  # noqa: S101
        design = self._evaluation.design
        d, error = float(self._estimate.difference[0]), float(self._estimate.error[0])
        z, with_power = float(ndtri(1 - design.alpha)), float(ndtri(design.power))
        needed = pairs * ((z + with_power) * error / design.margin) ** 2
        if needed <= pairs:
            needed = pairs * ((z + with_power) * error / max(d + design.margin, -d)) ** 2
        return max(int(np.ceil(needed)) - pairs, 1)
