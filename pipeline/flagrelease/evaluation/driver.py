"""Drives an evaluation of two sides: asks what its design wants next, until there is a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from flagrelease.evaluation.harness import Harness
from flagrelease.evaluation.question import Question
from flagrelease.evaluation.request import Ask, Endpoint, Evaluation, EvaluationRequest, Tally
from flagrelease.verdict.group_sequential import PlannedLooks, scores, unsettled
from flagrelease.verdict.samples import Sample, read_samples
from flagrelease.verdict.types import Answer, Decision

__all__ = ["Asked", "Kept", "Side", "conduct"]


class Side(Protocol):
    """One side's answers to a benchmark, and a way to get more of them."""

    def samples(self) -> Sequence[Sample]: ...

    def ask(self, look: int, wanted: Sequence[Answer]) -> None: ...


@dataclass(frozen=True)
class Kept:
    """A side that was evaluated before and can only be read."""

    answers: Sequence[Sample]

    def samples(self) -> Sequence[Sample]:
        return self.answers

    def ask(self, look: int, wanted: Sequence[Answer]) -> None:
        raise AssertionError(f"look {look} wants {len(wanted)} answers of a side that is kept")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A side behind an endpoint. Its answers are appended to the file `into`, and taken up from there.

    `server` starts what is asked, when there is something to ask; it gives the endpoint and its watch (see Harness).
    """

    harness: Harness
    server: Callable[[], tuple[Endpoint, Callable[[], None]]]
    evaluation: Evaluation  # `asks` are left to the design
    questions: Sequence[Question]
    into: Path
    report: Callable[[int, Tally], None]

    def samples(self) -> Sequence[Sample]:
        if not self.into.exists():
            return ()
        return [one for one in read_samples(self.into) if one.benchmark == self.evaluation.benchmark]

    def ask(self, look: int, wanted: Sequence[Answer]) -> None:
        """Ask what is `wanted`, each once; `look` is for the report, 0 where there are none."""
        known = {(question.subset, question.id): question for question in self.questions}
        asks = tuple(Ask(known[subset, question], repeat) for subset, question, repeat in wanted)
        endpoint, watch = self.server()
        self.harness.evaluate(
            EvaluationRequest(
                endpoint=endpoint,
                evaluation=replace(self.evaluation, asks=asks),
                into=self.into,
                watch=watch,
                report=lambda tally: self.report(look, tally),
            )
        )

    def whole(self, repeats: int) -> Sequence[Sample]:
        """Everything `repeats` times; what is missing is asked."""
        there = scores(self.samples())
        every = [(one.subset, one.id, repeat) for repeat in range(repeats) for one in self.questions]
        if missing := [one for one in every if one not in there]:
            self.ask(0, missing)
        return self.samples()


def conduct(planned: PlannedLooks, baseline: Side, candidate: Side) -> Decision:
    """Ask until the design decides. What was answered stays; conducting again asks only what is missing."""
    while True:
        before, after = baseline.samples(), candidate.samples()
        known, found = scores(before), scores(after)
        step = planned.evaluation.next(known, found)
        if isinstance(step, Decision):
            look = step.looks + 1
            rest = unsettled(planned, step, before, after)
            wanted = tuple(tuple(one for one in rest if one not in there) for there in (known, found))
            if not any(wanted):
                return step
        else:
            look, wanted = step.look, (step.baseline, step.candidate)
        for side, asked in zip((baseline, candidate), wanted, strict=True):
            if asked:
                side.ask(look, asked)
