"""Drives a sequential evaluation: asks what its design wants next, until there is a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from flagrelease.evaluation.question import Question
from flagrelease.gates import BenchmarkVerdict
from flagrelease.ports.harness import Ask, Endpoint, Evaluation, Harness, Tally
from flagrelease.samples import Sample, read_samples
from flagrelease.stats.design import Answer, Decision, Item, SequentialEvaluation
from flagrelease.stats.pairing import SideCount

__all__ = ["Asked", "Kept", "Side", "conduct", "items", "settled"]


class Side(Protocol):
    """One side's answers to a benchmark, and a way to get more of them."""

    def samples(self) -> Sequence[Sample]: ...

    def ask(self, wanted: Sequence[Answer]) -> None: ...


@dataclass(frozen=True)
class Kept:
    """A side that was evaluated before and can only be read."""

    answers: Sequence[Sample]

    def samples(self) -> Sequence[Sample]:
        return self.answers

    def ask(self, wanted: Sequence[Answer]) -> None:
        raise AssertionError(f"{len(wanted)} answers wanted of a side that is kept; its design needs `reference`")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A side behind an endpoint. Its answers are appended to the file `into`, and taken up from there."""

    harness: Harness
    endpoint: Endpoint
    evaluation: Evaluation  # `asks` are left to the design
    questions: Sequence[Question]
    into: Path
    watch: Callable[[], None]
    report: Callable[[Tally], None]

    def samples(self) -> Sequence[Sample]:
        if not self.into.exists():
            return ()
        return [one for one in read_samples(self.into) if one.benchmark == self.evaluation.benchmark]

    def ask(self, wanted: Sequence[Answer]) -> None:
        known = {(question.subset, question.id): question for question in self.questions}
        asks = tuple(Ask(known[subset, question], repeat) for subset, question, repeat in wanted)
        self.harness.evaluate(
            self.endpoint, replace(self.evaluation, asks=asks), self.into, watch=self.watch, report=self.report
        )


def items(questions: Iterable[Question]) -> tuple[Item, ...]:
    """The names by which a design knows questions; those of one story depend on each other."""
    return tuple(Item(one.subset, one.id, f"{one.subset}/{one.id.partition('#')[0]}") for one in questions)


def conduct(evaluation: SequentialEvaluation, baseline: Side, candidate: Side) -> Decision:
    """Ask until the design decides. What was answered stays; conducting again asks only what is missing."""
    while True:
        step = evaluation.next(_scores(baseline), _scores(candidate))
        if isinstance(step, Decision):
            return step
        for side, wanted in ((baseline, step.baseline), (candidate, step.candidate)):
            if wanted:
                side.ask(wanted)


def _scores(side: Side) -> Mapping[Answer, float]:
    return {(one.subset, one.question_id, one.repeat): float(one.correct) for one in side.samples()}


def settled(
    benchmark: str, margin: float, decision: Decision, baseline: Sequence[Sample], candidate: Sequence[Sample]
) -> BenchmarkVerdict:
    """The decision as the verdict of a benchmark. No flips: with unequal repeats there is no majority to change."""
    return BenchmarkVerdict(
        benchmark=benchmark,
        n=decision.n,
        baseline=_count(decision.baseline_score, decision.n, baseline),
        candidate=_count(decision.candidate_score, decision.n, candidate),
        difference=decision.difference,
        interval90=decision.interval90,
        margin=margin,
        p_regression=decision.p_regression,
        verdict=decision.verdict,
        reason=decision.reason,
        more_answers=decision.more_answers,
    )


def _count(score: float, n: int, samples: Sequence[Sample]) -> SideCount:
    return SideCount(
        score=score,
        answers=len(samples),
        repeats=math.ceil(len(samples) / n),
        errors=sum(one.error is not None for one in samples),
        truncated=sum(one.error is None and one.finish_reason == "length" for one in samples),
    )
