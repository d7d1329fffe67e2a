"""Judge the answers of each benchmark, and describe the verdict as a score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flagrelease.contract import accuracy_results, results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.evaluation.attempts import Turn
from flagrelease.evaluation.collect import Pair
from flagrelease.evaluation.spec import EvalSpec
from flagrelease.verdict import fixed_sample, group_sequential
from flagrelease.verdict.attempts import Attempt
from flagrelease.verdict.flips import differing
from flagrelease.verdict.noise import own_noise
from flagrelease.verdict.samples import Sample
from flagrelease.verdict.types import BASELINE_WEIGHT, BenchmarkVerdict


def judge(pairs: Sequence[Pair]) -> dict[str, BenchmarkVerdict]:
    """Judge group-sequential evaluations by their design, and complete ones by a fixed-sample test."""
    judged: dict[str, BenchmarkVerdict] = {}
    fixed: list[tuple[EvalSpec, Sequence[Sample], Sequence[Sample]]] = []
    for pair in pairs:
        if pair.baseline is None:
            continue
        if pair.planned is not None and pair.decision is not None:
            name = pair.spec.benchmark
            judged[name] = group_sequential.to_verdict(pair.planned, name, pair.decision, pair.baseline, pair.candidate)
        else:
            fixed.append((pair.spec, pair.baseline, pair.candidate))
    if fixed:
        comparison = fixed_sample.compare(
            [sample for _, before, _ in fixed for sample in before],
            [sample for _, _, after in fixed for sample in after],
            margins={spec.benchmark: spec.margin for spec, _, _ in fixed},
            chances={spec.benchmark: spec.chance for spec, _, _ in fixed},
            populations={spec.benchmark: spec.total for spec, _, _ in fixed},
            levels={pair.spec.benchmark: pair.turn.level for pair in pairs if pair.turn is not None},
            baseline_weight=BASELINE_WEIGHT,
        )
        judged |= comparison.benchmarks
    return judged


def score(pair: Pair, judged: BenchmarkVerdict) -> accuracy_results.BenchmarkScore:
    """The score of a benchmark that was compared with its baseline."""
    samples, baseline = pair.candidate, pair.baseline or ()
    same = len(samples) - differing(baseline, samples)
    remarks = [*judged.remarks, f"{same} of {len(samples)} answers are the same"]
    return replace(
        score_alone(pair, "; ".join((judged.reason, *remarks))),
        metric=pair.spec.metric(judged.repeats),
        n=judged.n,
        repeats=float(judged.repeats),
        baseline=judged.baseline_score,
        candidate=judged.candidate_score,
        difference=judged.difference,
        interval90=judged.interval90,
        p_regression=judged.p_regression,
        flips=_flips(pair, judged),
        partial=pair.spec.partial(judged.n),
        verdict=judged.verdict.value,
        sensitive=judged.sensitive,
        length=judged.length,
        course=judged.course,
        noise=own_noise(baseline),
    )


def attempt(job: Job, context: Context, turn: Turn, judged: BenchmarkVerdict) -> Attempt:
    """The judgement as it is remembered."""
    return Attempt(
        number=turn.number,
        level=turn.level,
        image=context.result(results.IMAGE).digest,
        run=context.run_id,
        profile=job.cell.profile_name,
        answers=judged.candidate.answers,
        difference=judged.difference,
        interval90=judged.interval90,
        verdict=judged.verdict.value,
        judged=turn.judged,
    )


def _flips(pair: Pair, judged: BenchmarkVerdict) -> tuple[int, int] | None:
    """Questions gained and lost; None against a reference, whose repeats differ: they have no majority."""
    reference = pair.planned is not None and pair.planned.reference
    return None if reference else (len(judged.gained), len(judged.lost))


def score_alone(pair: Pair, why: str) -> accuracy_results.BenchmarkScore:
    """A score without a baseline, which is always INCONCLUSIVE."""
    spec, samples = pair.spec, pair.candidate
    return accuracy_results.BenchmarkScore(
        benchmark=spec.benchmark,
        metric=spec.metric(spec.repeats),
        n=len(spec.questions),
        repeats=float(spec.repeats),
        baseline=None,
        candidate=sum(float(sample.correct) for sample in samples) / len(samples),
        difference=None,
        interval90=None,
        margin=spec.margin,
        p_regression=None,
        flips=None,
        errors=sum(sample.error is not None for sample in samples),
        truncated=sum(sample.error is None and sample.finish_reason == "length" for sample in samples),
        partial=spec.partial(len(spec.questions)),
        data_sha256=spec.data_sha256,
        verdict="INCONCLUSIVE",
        reason=why,
    )
