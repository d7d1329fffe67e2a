"""Run a group-sequential design: ask both sides for the answers it requests until it decides."""

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

__all__ = ["ServedSide", "Side", "StoredSide", "run_design"]


class Side(Protocol):
    """The baseline's or the candidate's answers to a benchmark."""

    def samples(self) -> Sequence[Sample]:
        """The answers so far."""
        ...

    def ask(self, look: int, wanted: Sequence[Answer]) -> None:
        """Get the answers `wanted`, for the interim analysis `look`."""
        ...


@dataclass(frozen=True)
class StoredSide:
    """A side with a complete earlier evaluation; it is only read."""

    answers: Sequence[Sample]

    def samples(self) -> Sequence[Sample]:
        return self.answers

    def ask(self, look: int, wanted: Sequence[Answer]) -> None:
        raise AssertionError(f"look {look} requests {len(wanted)} answers of a stored side")


@dataclass(frozen=True, kw_only=True)
class ServedSide:
    """A side behind an endpoint, which is asked for missing answers."""

    harness: Harness
    """Sends the questions."""
    server: Callable[[], tuple[Endpoint, Callable[[], None]]]
    """Starts the server on first use; returns its endpoint and its watch (see EvaluationRequest)."""
    evaluation: Evaluation
    """The evaluation; its `asks` are replaced by those of the design."""
    questions: Sequence[Question]
    """All questions of the evaluation."""
    into: Path
    """The samples file; answers are appended, and earlier ones reused."""
    report: Callable[[int, Tally], None]
    """Called with the look (0 outside a design) and the progress."""

    def samples(self) -> Sequence[Sample]:
        if not self.into.exists():
            return ()
        return [sample for sample in read_samples(self.into) if sample.benchmark == self.evaluation.benchmark]

    def ask(self, look: int, wanted: Sequence[Answer]) -> None:
        """Get each answer `wanted` once; `look` is only reported, 0 outside a design."""
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

    def complete(self, repeats: int) -> Sequence[Sample]:
        """All answers, `repeats` to each question, after asking for the missing ones."""
        known = scores(self.samples())
        every = [(question.subset, question.id, repeat) for repeat in range(repeats) for question in self.questions]
        if missing := [answer for answer in every if answer not in known]:
            self.ask(0, missing)
        return self.samples()


def run_design(planned: PlannedLooks, baseline: Side, candidate: Side) -> Decision:
    """Ask for answers until the design decides. After an interruption, run again: only missing answers are asked."""
    while True:
        before, after = baseline.samples(), candidate.samples()
        known = scores(before), scores(after)
        step = planned.evaluation.next(*known)
        if isinstance(step, Decision):
            undecided = unsettled(planned, step, before, after)
            missing = tuple(answer for answer in undecided if answer not in known[0])
            if not missing:
                return step
            baseline.ask(step.looks + 1, missing)
            continue
        for side, answers in ((baseline, step.baseline), (candidate, step.candidate)):
            if answers:
                side.ask(step.look, answers)
