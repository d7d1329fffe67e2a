"""The recorded group-sequential design, and the verdict it yields on a set of samples. Pure.

The design is fixed before the first question is asked and recorded in conditions.json. Its answers can only be judged
by the same design, because their number depends on their scores.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import msgspec

from flagrelease.errors import ComparisonRefused
from flagrelease.verdict import rule, wording
from flagrelease.verdict.flips import flips
from flagrelease.verdict.lengths import length_ratio, truncation_excess
from flagrelease.verdict.samples import Sample
from flagrelease.verdict.sensitivity import above_chance, independent, silent_sides
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

__all__ = [
    "PlannedLooks",
    "check",
    "interim_analyses",
    "judge",
    "judged",
    "read",
    "scores",
    "to_verdict",
    "unsettled",
]

_SAMPLED, _MOST = 10, 40
_STAGE = 128


@dataclass(frozen=True, kw_only=True)
class PlannedLooks:
    """The design of one benchmark's evaluation. stats/design.py explains its parameters."""

    questions: tuple[tuple[str, str], ...]
    """(subset, id) in the order that the design draws from."""
    margin: float
    """The non-inferiority margin, a fraction."""
    repeats: int
    """The most answers of each side to a question, on average."""
    fail_alpha: float
    """The one-sided level of FAIL."""
    reference: bool
    """Whether the baseline was completely answered before, at least twice for each question."""
    chance: float
    """The chance level of the score; 0 if answers cannot be guessed."""
    alpha: float = ALPHA
    """The one-sided level of PASS."""
    power: float = 0.90
    """The probability of PASS at no loss by the planned information."""
    looks: int = 10
    """The number of interim analyses by the planned information."""
    exponent: float = 1.0
    """ρ of the spending function α·t^ρ."""
    reserve: float = 0.0
    """The share of α that is kept for going on beyond the planned information."""
    variance: float = 0.25
    """Assumed variance of the difference of one pair of answers."""
    seed: int = 0
    """Of the order in which questions are asked."""
    population: int = 0
    """Questions of the complete benchmark; 0 if that was not recorded."""
    baseline_weight: float = 0.0
    """The weight of a kept baseline's standard error in the bound of PASS; 0 if that was not recorded."""

    @cached_property
    def design(self) -> Design:
        from flagrelease.verdict.stats.design import Design  # imports numpy and scipy

        if not 0 < self.margin < 1:
            raise ComparisonRefused(f"the margin is {self.margin!r}", hint="a margin is a fraction: 0.05 is 5 points")
        return Design(
            questions=len(self.questions),
            margin=self.margin,
            repeats=self.repeats,
            alpha=self.alpha,
            fail_alpha=self.fail_alpha,
            power=self.power,
            looks=self.looks,
            exponent=self.exponent,
            reserve=self.reserve,
            variance=self.variance,
            baseline_weight=self.baseline_weight,
        )

    @cached_property
    def evaluation(self) -> SequentialEvaluation:
        from flagrelease.verdict.stats.design import Item, SequentialEvaluation

        items = tuple(Item(subset, name, f"{subset}/{name.partition('#')[0]}") for subset, name in self.questions)
        return SequentialEvaluation(
            design=self.design, items=items, seed=self.seed, reference=self.reference, population=self.population
        )

    def record(self) -> dict[str, Any]:
        """The JSON form in conditions.json, for `read`."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def interim_analyses(margin: float, repeats: int) -> int:
    """The number of looks to plan: ten for sampled answers, and up to forty if each question is asked once.

    Greedy answers of equal stacks hardly differ, so that few questions decide: a first look after a tenth of what the
    largest variance requires comes too late. A stage has at least 128 questions, so that the server is busy in it.
    """
    if repeats > 1:
        return _SAMPLED
    normal = NormalDist()
    quantiles = normal.inv_cdf(1 - ALPHA) + normal.inv_cdf(PlannedLooks.power)
    questions = PlannedLooks.variance * (quantiles / margin) ** 2
    return min(max(int(questions / _STAGE), _SAMPLED), _MOST)


def read(record: Mapping[str, Any], benchmark: str) -> PlannedLooks:
    """The design recorded in conditions.json. Raises ComparisonRefused if it is damaged."""
    try:
        return msgspec.convert(dict(record), PlannedLooks)
    except msgspec.ValidationError as error:
        raise ComparisonRefused(f"the recorded design of {benchmark} is damaged", why=str(error)) from None


def scores(samples: Iterable[Sample]) -> dict[Answer, float]:
    """The scores of the samples by answer, as a design reads them; NaN for a failed one."""
    return {_answer(sample): math.nan if sample.error is not None else float(sample.correct) for sample in samples}


def judge(
    planned: PlannedLooks,
    benchmark: str,
    baseline: Sequence[Sample],
    candidate: Sequence[Sample],
    *,
    margin: float | None = None,
) -> BenchmarkVerdict:
    """Judge one benchmark's answers by the design by which they were asked.

    For a `margin` other than the design's, the repeated confidence interval decides: it is valid at every look,
    whatever stopped the evaluation (Jennison and Turnbull 2000, ch. 9). Raises ComparisonRefused if the answers are not
    those that the design asks for.
    """
    check(planned, benchmark, baseline, candidate)
    if planned.reference:
        every = ((*question, repeat) for question in planned.questions for repeat in range(planned.repeats))
        given = scores(baseline)
        if missing := [answer for answer in every if answer not in given]:
            raise ComparisonRefused(
                f"the baseline is incomplete in {benchmark}",
                why=f"{len(missing)} of its answers are missing, such as {_name(missing[0])}",
                hint="the design requires the complete baseline: resume that evaluation",
            )
    step = planned.evaluation.next(scores(baseline), scores(candidate))
    if isinstance(step, Ask):
        side, wanted = ("candidate", step.candidate) if step.candidate else ("baseline", step.baseline)
        raise ComparisonRefused(
            f"the {side} is incomplete in {benchmark}",
            why=f"look {step.look} of its design requires {len(wanted)} missing answers, such as {_name(wanted[0])}",
            hint="an unfinished sequential evaluation has no score: resume it, or compare it with its own baseline",
        )
    return to_verdict(planned, benchmark, step, baseline, candidate, margin=margin)


def check(planned: PlannedLooks, benchmark: str, baseline: Sequence[Sample], candidate: Sequence[Sample]) -> None:
    """Raise ComparisonRefused for answers to other questions or prompts, and for a side with nothing but errors."""
    known, prompts = set(planned.questions), dict[tuple[str, str], str]()
    for side, samples in (("baseline", baseline), ("candidate", candidate)):
        for sample in samples:
            question = (sample.subset, sample.question_id)
            if question not in known:
                raise ComparisonRefused(
                    f"the {side} answered a question of {benchmark} that is not in its design",
                    why="/".join(question),
                    hint="evaluate both sides on the same data",
                )
            if prompts.setdefault(question, sample.prompt_sha256) != sample.prompt_sha256:
                raise ComparisonRefused(
                    f"the two sides were asked {benchmark} with different prompts",
                    why="/".join(question),
                    hint="use the same data, shots and prompt template on both sides",
                )
        if samples and all(sample.error is not None for sample in samples):
            raise ComparisonRefused(
                f"all {len(samples)} answers of the {side} in {benchmark} are errors", hint="see its server log"
            )


def to_verdict(
    planned: PlannedLooks,
    benchmark: str,
    decision: Decision,
    baseline: Sequence[Sample],
    candidate: Sequence[Sample],
    *,
    margin: float | None = None,
) -> BenchmarkVerdict:
    """The verdict on a benchmark for a decision of its design. `n` counts the candidate's questions."""
    from flagrelease.verdict.stats.subsets import worse_subsets  # imports numpy and scipy

    before, after = judged(planned, decision, baseline, candidate)
    gained, lost = ((), ()) if planned.reference else _flips(before, after)
    evidence = _evidence(planned, decision, baseline, candidate, planned.margin if margin is None else margin)
    ruling = rule.decide(evidence)
    first, then = _count(decision.baseline_score, before), _count(decision.candidate_score, after)
    remarks = wording.remarks(ruling, evidence, baseline=first, candidate=then)
    remarks += wording.worse_subsets(worse_subsets(before, after))
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
        course=_course(planned, decision, len(candidate)),
        sensitive=ruling.sensitive,
        length=evidence.length,
    )


def _evidence(
    planned: PlannedLooks,
    decision: Decision,
    baseline: Sequence[Sample],
    candidate: Sequence[Sample],
    margin: float,
) -> BenchmarkEvidence:
    """The design's evidence on the scores, with the baseline's score above the chance level and silent sides."""
    alike = _asked_alike(baseline)
    score = sum(float(sample.correct) for sample in alike) / len(alike)
    questions = planned.population or len(planned.questions)
    n = independent(alike, complete=_questions(alike) >= questions)
    excess = truncation_excess(baseline, candidate)
    low, high = decision.evidence.interval
    return replace(
        decision.evidence,
        interval=(max(low - excess, -1.0), high),
        floor=max(decision.evidence.lowest - excess, -1.0),
        margin=margin,
        above_chance=above_chance(score, n, planned.chance),
        silent=silent_sides(baseline, candidate),
        length=length_ratio(baseline, candidate),
        truncation_excess=excess,
    )


def _asked_alike(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The answers of those repeats that all of the questions have, whose mean is an unbiased score."""
    repeats = Counter((sample.subset, sample.question_id) for sample in samples)
    each = min(repeats.values())
    return [sample for sample in samples if sample.repeat < each]


def unsettled(
    planned: PlannedLooks, decision: Decision, baseline: Sequence[Sample], candidate: Sequence[Sample]
) -> tuple[Answer, ...]:
    """The answers to ask of the baseline after the scores pass, if it is undecided whether its score is far enough
    above the chance level: all questions once each. Otherwise empty, as for a complete baseline."""
    evidence = _evidence(planned, decision, baseline, candidate, planned.margin)
    if planned.reference or rule.decide(evidence).ground is not Ground.SENSITIVITY_UNDECIDED:
        return ()
    return tuple((subset, name, 0) for subset, name in planned.questions)


def judged(
    planned: PlannedLooks, decision: Decision, baseline: Sequence[Sample], candidate: Sequence[Sample]
) -> tuple[list[Sample], list[Sample]]:
    """The answers of both sides from which the decision follows."""
    used = _used(planned, decision)
    after = [sample for sample in candidate if _answer(sample) in used]
    before = list(baseline) if planned.reference else [sample for sample in baseline if _answer(sample) in used]
    return before, after


def _course(planned: PlannedLooks, decision: Decision, answers: int) -> Course:
    why = "all planned questions are answered and do not suffice for a verdict"
    if decision.verdict is not Verdict.INCONCLUSIVE:
        why = "the scores decided"
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


def _answer(sample: Sample) -> Answer:
    return sample.subset, sample.question_id, sample.repeat


def _flips(before: Sequence[Sample], after: Sequence[Sample]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Questions gained and lost, among those that both sides answered."""
    first, then = _means(before), _means(after)
    both = [name for name in then if name in first]
    return flips(both, [first[name] for name in both], [then[name] for name in both])


def _means(samples: Sequence[Sample]) -> dict[str, float]:
    by_question: dict[str, list[float]] = {}
    for sample in samples:
        by_question.setdefault(f"{sample.subset}/{sample.question_id}", []).append(float(sample.correct))
    return {name: sum(given) / len(given) for name, given in by_question.items()}


def _questions(samples: Sequence[Sample]) -> int:
    return len({(sample.subset, sample.question_id) for sample in samples})


def _count(score: float, samples: Sequence[Sample]) -> SideCount:
    mean = len(samples) / _questions(samples)
    return SideCount(
        score=score,
        answers=len(samples),
        repeats=int(mean) if mean.is_integer() else round(mean, 1),
        errors=sum(sample.error is not None for sample in samples),
        truncated=_truncated(samples),
    )


def _truncated(samples: Sequence[Sample]) -> int:
    return sum(sample.error is None and sample.finish_reason == "length" for sample in samples)


def _name(answer: Answer) -> str:
    subset, question, repeat = answer
    return f"{subset}/{question} repeat {repeat}"
