"""The group-sequential design: from the answers so far to the next questions or the decision. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.special import ndtri

from flagrelease.errors import ComparisonRefused
from flagrelease.verdict.stats.paired import Floats, Ints, kept_error, loss_error
from flagrelease.verdict.stats.sequential import Estimate, Look, Monitor, Progress, allocate
from flagrelease.verdict.stats.spending import Walk, inflation
from flagrelease.verdict.types import ALPHA, Answer, Ask, Decision, Ground

GROWTH = 1.15
"""Each stage beyond the planned ones is larger than the one before by this factor, so that the looks stay few."""

# A failed answer has the score NaN. An evaluation is estimated three times: failed answers count as wrong on both sides
# (the score that is shown, and what is asked next), then in the candidate's disfavour, then in its favour.
_FAILED = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # the score of the baseline's and of the candidate's

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
    reserve: float = 0.0
    """The share of α that is kept for going on beyond `information`; 0 ends the evaluation there."""
    variance: float = 0.25
    """Assumed variance of the difference of one pair, to size the first stage: 2·p(1−p) ≈ 0.25."""
    baseline_weight: float = 0.0
    """The weight of a kept baseline's standard error in the bound of PASS (`paired.kept_error`)."""

    @cached_property
    def information(self) -> float:
        """1/variance of the difference that is planned: that of the fixed-sample design, inflated."""
        factor = inflation(
            looks=self.looks,
            alpha=self.alpha,
            power=self.power,
            exponent=self.exponent,
            fail_alpha=self.fail_alpha,
        )
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
        if self.reserve:
            wanted = wanted * GROWTH ** max(number - self.looks, 0)
        return np.asarray(np.minimum(np.maximum(np.ceil(wanted), 1), self.budget - progress.pairs))

    def monitor(self, evaluations: int = 1) -> Monitor:
        """The boundaries at the start of the evaluation."""
        passing = Walk.start(evaluations)
        failing = passing if self.alpha == self.fail_alpha else Walk.start(evaluations)
        shown = None if self.alpha == ALPHA else Walk.start(evaluations)
        return Monitor(
            self.margin,
            self.information,
            self.alpha,
            self.fail_alpha,
            self.exponent,
            passing,
            failing,
            self.reserve,
            shown,
        )


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
    population: int = 0
    """Questions of the complete benchmark; 0 in evaluations that were recorded without it, with Wald's lower bound."""

    def next(self, baseline: Mapping[Answer, float], candidate: Mapping[Answer, float]) -> Ask | Decision:
        """The missing answers for the next look, or the decision if nothing is left to ask.

        The score of a failed answer is NaN: each bound of the interval takes it as the less favourable one.
        """
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

    def lower_error(self, error: Floats, progress: Progress) -> Floats:
        """The standard error of the lower bound."""
        if not self.population:
            return error
        opened = int(progress.opened.sum())
        independent = opened if opened >= self.population else len(np.unique(self.cluster[progress.opened]))
        return loss_error(
            error, self.design.margin, questions=independent, answers=progress.pairs[:1], population=self.population
        )

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
        self._progress = Progress.start(len(_FAILED), len(evaluation.items))
        self._mean, self._reference_variance = np.zeros((len(_FAILED), len(evaluation.items))), 0.0
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
        total, squares = (_sums(rows, scores**power, _FAILED[:, 0], len(row)) for power in (1, 2))
        spread = (squares[0] - total[0] ** 2 / count) / (count - 1)
        self._mean = total / count
        self._first_round = self._mean[0].tolist()
        self._reference_variance = float((spread / count).sum()) / len(row) ** 2
        self._progress = Progress.against(total, np.repeat(count[None, :], len(total), axis=0))

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
        pairs = self._evaluation.design.stage_pairs(self._progress, number, self._reference_variance)[:1]
        stage = allocate(self._progress.variance()[:1], pairs, start)
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

        def total(side: int) -> Floats:
            scores = np.array([self._sides[side][answer] for answer in wanted], np.float64)
            return _sums(rows, scores, _FAILED[:, side], len(count))

        return self._mean * count if self._evaluation.reference else total(0), total(1)

    def _judge(self) -> bool:
        design = self._evaluation.design
        estimate = self._progress.estimate(self._evaluation.cluster)
        self._estimate, worst, best = (estimate.lane(number) for number in range(len(_FAILED)))
        spent = self._progress.pairs[:1] >= design.budget
        self._monitor, self._look = self._monitor.look(
            self._estimate,
            spent,
            worst=worst,
            best=best,
            lower=lambda error: self._evaluation.lower_error(error, self._progress),
            floor=lambda error: kept_error(error, math.sqrt(self._reference_variance), design.baseline_weight),
        )
        ended = self._look.time[0] >= 1 and not design.reserve
        return bool(spent[0] or self._look.decision[0] or ended)

    def decision(self, looks: int) -> Decision:
        assert self._look is not None  # noqa: S101 - stages() judges before it ends
        assert self._estimate is not None  # noqa: S101
        evidence, ruling = self._look.evidence[0], self._look.rulings[0]
        pairs = int(self._progress.pairs[0])
        score = float(np.mean(self._first_round))
        difference = min(max(float(self._estimate.difference[0]), -score), 1.0 - score)  # weights may exceed that
        low, high = evidence.interval
        evidence = replace(
            evidence, interval=(min(low, difference), max(high, difference)), floor=min(evidence.lowest, difference)
        )
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

    def _more(self, pairs: int) -> int | None:
        """Further pairs for PASS at no loss or, if that many were asked already, for the closer verdict; None if no
        number of answers would decide (a single question or story)."""
        assert self._estimate is not None  # noqa: S101
        design = self._evaluation.design
        d, error = float(self._estimate.difference[0]), float(self._estimate.error[0])
        if not np.isfinite(error):
            return None
        z, with_power = float(ndtri(1 - design.alpha)), float(ndtri(design.power))
        needed = pairs * ((z + with_power) * error / design.margin) ** 2
        if needed <= pairs:
            needed = pairs * ((z + with_power) * error / max(d + design.margin, -d)) ** 2
        return max(int(np.ceil(needed)) - pairs, 1)


def _sums(rows: Ints, scores: Floats, failed: Floats, questions: int) -> Floats:
    """The sum of the scores of each question, (lanes, questions), where a failed answer scores `failed` (lanes,)."""
    known = np.bincount(rows, weights=np.nan_to_num(scores), minlength=questions)
    missing = np.bincount(rows, weights=np.isnan(scores), minlength=questions)
    return np.asarray(known + failed[:, None] * missing, np.float64)
