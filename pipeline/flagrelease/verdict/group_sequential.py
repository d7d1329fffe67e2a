"""The recorded group-sequential design, and the verdict it yields on a set of samples. Pure.

The design is fixed before the first question is asked and kept in conditions.json. Answers that were asked by one are
judged by it and by nothing else: how many there are depends on what they said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from flagrelease.errors import ComparisonRefused
from flagrelease.verdict import rule, wording
from flagrelease.verdict.flips import flips
from flagrelease.verdict.guessing import agreement, differing, guessing
from flagrelease.verdict.samples import Sample
from flagrelease.verdict.types import (
    ALPHA,
    Answer,
    Ask,
    BenchmarkEvidence,
    BenchmarkVerdict,
    Course,
    Decision,
    Ground,
    SideCount,
    Verdict,
)

if TYPE_CHECKING:
    from flagrelease.verdict.stats.design import Design, SequentialEvaluation

__all__ = ["PlannedLooks", "judge", "read", "scores", "settle", "unsettled"]

# A baseline that guesses is compared by its answers twice at most: when its score says PASS, and when all is asked.
FIRST_ALPHA, LAST_ALPHA = 0.2 * ALPHA, 0.8 * ALPHA


@dataclass(frozen=True, kw_only=True)
class PlannedLooks:
    """The design of one benchmark's evaluation.

    `questions` are (subset, id) in the order that the design draws from. `reference` says that the baseline was
    answered in whole before, at least twice each. `chance` is the score of guessing, 0 where nothing can be guessed.
    """

    questions: tuple[tuple[str, str], ...]
    margin: float
    repeats: int
    fail_alpha: float
    reference: bool
    chance: float
    alpha: float = ALPHA
    power: float = 0.90
    looks: int = 10
    exponent: float = 1.0
    variance: float = 0.25
    seed: int = 0

    @cached_property
    def design(self) -> Design:
        from flagrelease.verdict.stats.design import Design  # numpy and scipy: only where something is judged

        return Design(
            questions=len(self.questions),
            margin=self.margin,
            repeats=self.repeats,
            alpha=self.alpha,
            fail_alpha=self.fail_alpha,
            power=self.power,
            looks=self.looks,
            exponent=self.exponent,
            variance=self.variance,
        )

    @cached_property
    def evaluation(self) -> SequentialEvaluation:
        from flagrelease.verdict.stats.design import Item, SequentialEvaluation

        items = tuple(Item(subset, name, f"{subset}/{name.partition('#')[0]}") for subset, name in self.questions)
        return SequentialEvaluation(design=self.design, items=items, seed=self.seed, reference=self.reference)

    def record(self) -> dict[str, Any]:
        """The form in conditions.json, which `read` takes."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


def read(record: Mapping[str, Any], benchmark: str) -> PlannedLooks:
    """Raises ComparisonRefused."""
    try:
        return msgspec.convert(dict(record), PlannedLooks)
    except msgspec.ValidationError as error:
        raise ComparisonRefused(f"the recorded design of {benchmark} is damaged", why=str(error)) from None


def scores(samples: Iterable[Sample]) -> dict[Answer, float]:
    """The answers as a design reads them."""
    return {(one.subset, one.question_id, one.repeat): float(one.correct) for one in samples}


def judge(
    planned: PlannedLooks,
    benchmark: str,
    baseline: Sequence[Sample],
    candidate: Sequence[Sample],
    *,
    margin: float | None = None,
) -> BenchmarkVerdict:
    """The verdict on one benchmark's answers by the design that they were asked by.

    With another `margin` than the design's, the repeated confidence interval decides: it holds at every look,
    whatever stopped the evaluation (Jennison and Turnbull 2000, ch. 9). Raises ComparisonRefused where the answers
    are not those that the design asks for.
    """
    _check(planned, benchmark, baseline, candidate)
    if planned.reference:
        every = ((*question, repeat) for question in planned.questions for repeat in range(planned.repeats))
        there = scores(baseline)
        if missing := [one for one in every if one not in there]:
            raise ComparisonRefused(
                f"the baseline is incomplete in {benchmark}",
                why=f"{len(missing)} of its answers are not there, such as {_name(missing[0])}",
                hint="its design takes the whole baseline: resume that evaluation",
            )
    step = planned.evaluation.next(scores(baseline), scores(candidate))
    if isinstance(step, Ask):
        side, wanted = ("candidate", step.candidate) if step.candidate else ("baseline", step.baseline)
        raise ComparisonRefused(
            f"the {side} is incomplete in {benchmark}",
            why=f"look {step.look} of its design takes {len(wanted)} answers that are not there, such as "
            f"{_name(wanted[0])}",
            hint="a part of a sequential evaluation is no score: resume it, or compare it with its own baseline",
        )
    return settle(planned, benchmark, step, baseline, candidate, margin=margin)


def _check(planned: PlannedLooks, benchmark: str, baseline: Sequence[Sample], candidate: Sequence[Sample]) -> None:
    known, prompts = set(planned.questions), dict[tuple[str, str], str]()
    for side, samples in (("baseline", baseline), ("candidate", candidate)):
        for one in samples:
            question = (one.subset, one.question_id)
            if question not in known:
                raise ComparisonRefused(
                    f"the {side} answered a question of {benchmark} that its design does not have",
                    why=f"{one.subset}/{one.question_id}",
                    hint="evaluate both sides on the same data",
                )
            if prompts.setdefault(question, one.prompt_sha256) != one.prompt_sha256:
                raise ComparisonRefused(
                    f"the two sides were asked {benchmark} with different prompts",
                    why=f"{one.subset}/{one.question_id}",
                    hint="use the same data, shots and prompt template on both sides",
                )
        if samples and all(one.error is not None for one in samples):
            raise ComparisonRefused(
                f"all {len(samples)} answers of the {side} in {benchmark} are errors", hint="see its server log"
            )


def settle(
    planned: PlannedLooks,
    benchmark: str,
    decision: Decision,
    baseline: Sequence[Sample],
    candidate: Sequence[Sample],
    *,
    margin: float | None = None,
) -> BenchmarkVerdict:
    """The decision as the verdict of a benchmark; where the baseline only guesses, by its answers. `n` counts the
    questions that the candidate was asked."""
    used = _used(planned, decision)
    after = [one for one in candidate if _answer(one) in used]
    before = list(baseline) if planned.reference else [one for one in baseline if _answer(one) in used]
    gained, lost = ((), ()) if planned.reference else _flips(before, after)
    evidence = _evidence(planned, decision, baseline, candidate, planned.margin if margin is None else margin)
    ruling = rule.decide(evidence)
    first, then = _count(decision.baseline_score, before), _count(decision.candidate_score, after)
    remarks = wording.remarks(ruling, evidence, baseline=first, candidate=then)
    if evidence.margin != planned.margin:
        remarks = (*remarks, wording.other_margin(planned.margin))
    more = decision.more_answers if evidence.margin == planned.margin else None
    return BenchmarkVerdict(
        benchmark=benchmark,
        n=_questions(after),
        baseline=first,
        candidate=then,
        difference=decision.difference,
        interval90=evidence.interval,
        margin=evidence.margin,
        p_regression=evidence.p_regression,
        verdict=ruling.verdict,
        reason=wording.reason(ruling, evidence, after=decision.pairs, more=more),
        remarks=remarks,
        gained=gained,
        lost=lost,
        more_answers=more,
        course=_course(planned, decision, len(candidate), by_answers=evidence.agreement is not None),
    )


def _evidence(
    planned: PlannedLooks,
    decision: Decision,
    baseline: Sequence[Sample],
    candidate: Sequence[Sample],
    margin: float,
) -> BenchmarkEvidence:
    """The design's evidence, with the agreement of the answers where the baseline only guesses."""
    agreed = None
    if guessing(decision.baseline_score, decision.n, planned.chance):
        alpha = _agreement_alpha(planned, candidate)
        agreed = agreement(differing=differing(baseline, candidate), answers=len(candidate), alpha=alpha)
    return replace(decision.evidence, margin=margin, agreement=agreed)


def unsettled(
    planned: PlannedLooks, decision: Decision, baseline: Sequence[Sample], candidate: Sequence[Sample]
) -> tuple[Answer, ...]:
    """What is still to be asked of both sides after the scores have said PASS: the questions that are left, once
    each, where the baseline only guesses and its answers do not decide yet.

    Nothing for a sampled endpoint (more than one repeat): its answers differ from draw to draw on any stack.
    """
    evidence = _evidence(planned, decision, baseline, candidate, planned.margin)
    if planned.repeats > 1 or rule.decide(evidence).ground is not Ground.ANSWERS_UNDECIDED:
        return ()
    return tuple((subset, name, 0) for subset, name in planned.questions)


def _agreement_alpha(planned: PlannedLooks, candidate: Sequence[Sample]) -> float:
    if planned.repeats > 1:  # compared once
        return ALPHA
    return FIRST_ALPHA if len(candidate) < planned.design.budget else LAST_ALPHA


def _course(planned: PlannedLooks, decision: Decision, answers: int, *, by_answers: bool) -> Course:
    why = "all that was planned is answered and does not decide"
    if decision.verdict is not Verdict.INCONCLUSIVE:
        why = "the scores decided"
    if by_answers:
        why += f" after {decision.pairs:,} answers; the answers themselves were compared, since the baseline guesses"
    return Course(
        answers=answers,
        planned=planned.design.budget,
        look=decision.looks,
        looks=max(planned.design.planned, decision.looks),
        why=why,
    )


def _used(planned: PlannedLooks, decision: Decision) -> set[Answer]:
    return {
        (subset, name, repeat)
        for (subset, name), count in zip(planned.questions, decision.counts, strict=True)
        for repeat in range(count)
    }


def _answer(one: Sample) -> Answer:
    return one.subset, one.question_id, one.repeat


def _flips(before: Sequence[Sample], after: Sequence[Sample]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the questions that both sides answered."""
    first, then = _means(before), _means(after)
    both = [name for name in then if name in first]
    return flips(both, [first[name] for name in both], [then[name] for name in both])


def _means(samples: Sequence[Sample]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for one in samples:
        found.setdefault(f"{one.subset}/{one.question_id}", []).append(float(one.correct))
    return {name: sum(given) / len(given) for name, given in found.items()}


def _questions(samples: Sequence[Sample]) -> int:
    return len({(one.subset, one.question_id) for one in samples})


def _count(score: float, samples: Sequence[Sample]) -> SideCount:
    mean = len(samples) / _questions(samples)
    return SideCount(
        score=score,
        answers=len(samples),
        repeats=int(mean) if mean.is_integer() else round(mean, 1),
        errors=sum(one.error is not None for one in samples),
        truncated=_truncated(samples),
    )


def _truncated(samples: Sequence[Sample]) -> int:
    return sum(one.error is None and one.finish_reason == "length" for one in samples)


def _name(answer: Answer) -> str:
    subset, question, repeat = answer
    return f"{subset}/{question} repeat {repeat}"
