"""A sequential evaluation as it is written down beside its answers, and what those answers decide by it. Pure.

The design is fixed before the first question is asked and kept in conditions.json. Answers that were asked by one are
judged by it and by nothing else: how many there are depends on what they said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from flagrelease.errors import ComparisonRefused
from flagrelease.verdict.fixed_sample import ALPHA, BenchmarkVerdict, Course, Verdict, agree, guessed, guessing
from flagrelease.verdict.samples import Sample
from flagrelease.verdict.stats.design import Answer, Ask, Decision, Design, Item, SequentialEvaluation
from flagrelease.verdict.stats.pairing import SideCount

__all__ = ["PlannedLooks", "differing", "judge", "read", "scores", "settle", "unsettled"]

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
    by_answers = guessing(decision.baseline_score, decision.n, planned.chance)
    judged = BenchmarkVerdict(
        benchmark=benchmark,
        n=_questions(after),
        baseline=_count(decision.baseline_score, before),
        candidate=_count(decision.candidate_score, after),
        difference=decision.difference,
        interval90=decision.interval90,
        margin=planned.margin,
        p_regression=decision.p_regression,
        verdict=decision.verdict,
        reason=decision.reason,
        remarks=_remarks(before, after),
        gained=gained,
        lost=lost,
        more_answers=decision.more_answers,
        course=_course(planned, decision, len(candidate), by_answers=by_answers),
    )
    if margin is not None and margin != planned.margin:
        judged = _rejudged(judged, margin)
    if not by_answers:
        return judged
    alpha = _agreement_alpha(planned, candidate)
    return guessed(judged, differing=differing(baseline, candidate), answers=len(candidate), alpha=alpha)


def unsettled(
    planned: PlannedLooks, decision: Decision, baseline: Sequence[Sample], candidate: Sequence[Sample]
) -> tuple[Answer, ...]:
    """What is still to be asked of both sides after the scores have said PASS: the questions that are left, once
    each, where the baseline only guesses and its answers do not decide yet.

    Nothing for a sampled endpoint (more than one repeat): its answers differ from draw to draw on any stack.
    """
    if decision.verdict is not Verdict.PASS or planned.repeats > 1:
        return ()
    if not guessing(decision.baseline_score, decision.n, planned.chance):
        return ()
    differ, alpha = differing(baseline, candidate), _agreement_alpha(planned, candidate)
    if agree(differing=differ, answers=len(candidate), margin=planned.margin, alpha=alpha) is not None:
        return ()
    return tuple((subset, name, 0) for subset, name in planned.questions)


def _agreement_alpha(planned: PlannedLooks, candidate: Sequence[Sample]) -> float:
    if planned.repeats > 1:  # compared once
        return ALPHA
    return FIRST_ALPHA if len(candidate) < planned.design.budget else LAST_ALPHA


def differing(before: Sequence[Sample], after: Sequence[Sample]) -> int:
    """How many answers are not the same, right or wrong; an error is no answer, and equals none."""
    given = {sample.key: sample.answer for sample in before if sample.error is None}
    return sum(one.error is not None or one.key not in given or given[one.key] != one.answer for one in after)


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


def _rejudged(found: BenchmarkVerdict, margin: float) -> BenchmarkVerdict:
    """By the interval that holds at every look."""
    low, high = found.interval90
    points = f"{100 * margin:.3g} points"
    if low > -margin:
        verdict, reason = Verdict.PASS, f"not worse by {points} or more"
    elif high < 0:
        verdict, reason = Verdict.FAIL, f"a significant loss that may be larger than the margin of {points}"
    else:
        verdict = Verdict.INCONCLUSIVE
        reason = f"the loss may be as large as {-100 * low:.3g} points, beyond the margin of {points}"
    told = f"asked by a design with a margin of {100 * found.margin:.3g} points, judged by its interval, which holds "
    told += "at every look"
    return replace(
        found, margin=margin, verdict=verdict, reason=reason, remarks=(*found.remarks, told), more_answers=None
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
    """The questions (SUBSET/ID) whose majority answer changed; both sides have the same answers."""
    first, then = _majority(before), _majority(after)
    gained = tuple(name for name, right in then.items() if right and not first.get(name, right))
    lost = tuple(name for name, right in then.items() if not right and first.get(name, right))
    return gained, lost


def _majority(samples: Sequence[Sample]) -> dict[str, bool]:
    found: dict[str, list[float]] = {}
    for one in samples:
        found.setdefault(f"{one.subset}/{one.question_id}", []).append(float(one.correct))
    return {name: bool(np.mean(given) >= 0.5) for name, given in found.items()}


def _remarks(before: Sequence[Sample], after: Sequence[Sample]) -> tuple[str, ...]:
    remarks = []
    for side, samples in (("baseline", before), ("candidate", after)):
        if failed := sum(one.error is not None for one in samples):
            remarks.append(f"{failed} of {len(samples)} answers of the {side} failed and count as wrong")
        if cut := _truncated(samples):
            remarks.append(f"{cut} of {len(samples)} answers of the {side} were truncated")
    return tuple(remarks)


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
