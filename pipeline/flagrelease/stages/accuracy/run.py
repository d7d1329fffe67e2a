"""accuracy: ask the served image and the baseline the same questions, and compare the answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from flagrelease.config.cell import fingerprint
from flagrelease.config.harness_names import DEFAULT_HARNESS
from flagrelease.config.lockfile import LockedData
from flagrelease.contract import accuracy_results, results
from flagrelease.contract.context import Context, Look
from flagrelease.contract.job import Job
from flagrelease.contract.stage import Stage
from flagrelease.errors import ConfigError
from flagrelease.evaluation import baselines, transcripts
from flagrelease.evaluation.collect import Gathered, Pair, gather, lines
from flagrelease.evaluation.datasets import digest_of, load
from flagrelease.evaluation.harness import Harness
from flagrelease.evaluation.harnesses import choose
from flagrelease.evaluation.spec import EvalSpec, build_spec
from flagrelease.evaluation.tasks import task_named
from flagrelease.evaluation.transcripts import REPLIES
from flagrelease.serving.operator_status import Counting
from flagrelease.serving.server import served
from flagrelease.serving.servers import Serve
from flagrelease.store.evidence import Evidence
from flagrelease.store.ledger import Ledger
from flagrelease.verdict import fixed_sample, group_sequential
from flagrelease.verdict.guessing import differing
from flagrelease.verdict.noise import own_noise
from flagrelease.verdict.samples import CONDITIONS, SAMPLES, Conditions, Sample
from flagrelease.verdict.types import BenchmarkVerdict, Verdict, worst_verdict

DIFFERENCES = "accuracy/comparison.json"
FLIPPED = "accuracy/flipped.jsonl"


def inputs(job: Job) -> Mapping[str, Any]:
    cell, lock = job.cell, job.lock
    benchmarks = {
        name: {
            "benchmark": asdict(job.matrix.benchmarks[name]),
            "share": asdict(share),
            "data": digest_of(name, job.matrix.benchmarks[name], lock, job.data_dir),
        }
        for name, share in cell.profile.benchmarks.items()
    }
    return {
        "model": lock.models[cell.model_name].digest if cell.model_name in lock.models else "",
        "engine": cell.model.serve.engine,
        "concurrency": cell.model.serve.concurrency,
        "sampling": asdict(cell.model.sampling),
        "stack": cell.stack,
        "baseline": asdict(cell.baseline),
        "benchmarks": benchmarks,
        "sequential": cell.profile.sequential,
        "harness": cell.profile.harness,
    }


def run(
    job: Job, context: Context, *, harness: Harness | None = None, serve: Serve = served
) -> accuracy_results.Accuracy:
    """Raises ConfigError for a benchmark without data, SmokeFailed if the endpoint cannot be evaluated."""
    choose.check(job.cell, job.matrix.benchmarks)
    specs = build_specs(job, context)
    counting = Counting(serve)
    outside = choose.outside_scores(job, context, counting)
    gathered = gather(job, context, specs, harness or choose.Harnesses(), counting)
    result = replace(_result(job, context, gathered, outside), called=counting.called)
    # Delete the scratch answers, which are evidence now: a forced re-run must not reuse them.
    shutil.rmtree(context.workspace.scratch(job.cell.slug, "accuracy"), ignore_errors=True)
    return result


def fetch_data(context: Context) -> Callable[[LockedData], Path]:
    """Return a function that fetches and verifies a locked file of benchmark data."""

    def fetch(locked: LockedData) -> Path:
        into = context.workspace.data / locked.file.sha256
        with context.meter.waiting():
            return context.ports.hubs.file(locked, into, context.progress, context.meter)

    return fetch


def build_specs(job: Job, context: Context) -> list[EvalSpec]:
    """Fetch and verify the data, and build the EvalSpec of every benchmark in the profile. Raises ConfigError for a
    profile without benchmarks, or a benchmark without data."""
    fetch = fetch_data(context)
    if not job.cell.profile.benchmarks:
        raise ConfigError(f"profile {job.cell.profile_name} has no benchmarks", hint="add one to its `benchmarks`")
    specs = []
    for name in choose.asked_here(job.cell, job.matrix.benchmarks):
        share = job.cell.profile.benchmarks[name]
        context.progress.doing(f"reading the questions of {name}")
        benchmark = job.matrix.benchmarks[name]
        data = load(name, benchmark, job.lock, job.data_dir, fetch)
        task = task_named(benchmark.task, name)
        specs.append(build_spec(name, benchmark, task, share, data, job.cell.model, job.cell.profile.harness))
    return specs


def _result(
    job: Job, context: Context, gathered: Gathered, outside: Sequence[accuracy_results.BenchmarkScore]
) -> accuracy_results.Accuracy:
    cell, pairs = job.cell, gathered.pairs
    compared = [pair for pair in pairs if pair.baseline is not None]
    judged = _judge(compared)
    own = (
        _score(pair, judged[pair.spec.benchmark]) if pair.baseline is not None else _alone(pair, baselines.need(cell))
        for pair in pairs
    )
    scores = (*own, *outside)
    verdict = worst_verdict(Verdict(score.verdict) for score in scores)
    decisive = [score for score in scores if score.verdict == verdict]
    weights = context.result(results.WEIGHTS)
    keys = {pair.spec.benchmark: baselines.key(cell, weights, pair.spec) for pair in compared}
    alone = [baselines.key(cell, weights, pair.spec) for pair in pairs if pair.baseline is None]
    return accuracy_results.Accuracy(
        verdict=verdict.value,
        reason="; ".join(f"{score.benchmark}: {score.reason}" for score in decisive),
        benchmarks=scores,
        baseline_name=baselines.name(cell),
        baseline_key=fingerprint(keys) if keys else "",
        sampling=sampling([pair.spec for pair in pairs]),
        questions_asked=gathered.asked,
        inference_seconds=round(gathered.seconds, 3),
        likeness=gathered.likeness,
        evidence=(*_evidence(job, context, pairs, judged), *gathered.evidence),
        awaited=tuple(key for key in alone if baselines.absent(context, key)),  # a partial baseline is not awaited
    )


def _judge(pairs: Sequence[Pair]) -> dict[str, BenchmarkVerdict]:
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
        )
        judged |= comparison.benchmarks
    return judged


def _score(pair: Pair, judged: BenchmarkVerdict) -> accuracy_results.BenchmarkScore:
    samples, baseline = pair.candidate, pair.baseline or ()
    same = len(samples) - differing(baseline, samples)
    remarks = [*judged.remarks, f"{same} of {len(samples)} answers are the same"]
    return replace(
        _alone(pair, "; ".join((judged.reason, *remarks))),
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
        course=judged.course,
        noise=own_noise(baseline),
    )


def _flips(pair: Pair, judged: BenchmarkVerdict) -> tuple[int, int] | None:
    """Questions gained and lost; None against a reference, whose repeats differ: they have no majority."""
    reference = pair.planned is not None and pair.planned.reference
    return None if reference else (len(judged.gained), len(judged.lost))


def _alone(pair: Pair, why: str) -> accuracy_results.BenchmarkScore:
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


def sampling(specs: Sequence[EvalSpec]) -> dict[str, Any]:
    """The sampling parameters if all benchmarks share them, else the parameters of each benchmark as text."""
    each = {spec.benchmark: dict(spec.evaluation.parameters) for spec in specs}
    first = next(iter(each.values()), {})
    if all(parameters == first for parameters in each.values()):
        return first
    return {name: ", ".join(f"{key} {value}" for key, value in used.items()) for name, used in each.items()}


def _replies(job: Job, context: Context, pairs: Sequence[Pair]) -> Iterator[Evidence]:
    """Transcripts of the graded answers, except for password-protected data: answers quote questions."""
    public = [pair for pair in pairs if "#" not in job.matrix.benchmarks[pair.spec.benchmark].data]
    folder = context.workspace.scratch(job.cell.slug, "accuracy")
    for role, name in (("candidate", REPLIES), ("baseline", f"baseline.{REPLIES}")):
        sides = [pair.candidate if role == "candidate" else pair.baseline or () for pair in public]
        collected = transcripts.collect([folder / role], {sample.key for side in sides for sample in side})
        if collected:
            yield context.evidence.put(f"accuracy/{name}", collected)


def _evidence(
    job: Job, context: Context, pairs: Sequence[Pair], judged: Mapping[str, BenchmarkVerdict]
) -> tuple[Evidence, ...]:
    """Write both answer sets with their conditions, the comparison, and the flipped questions."""
    conditions = Conditions(
        model=context.result(results.WEIGHTS).digest,
        data={pair.spec.benchmark: pair.spec.data_sha256 for pair in pairs},
        sampling={pair.spec.benchmark: dict(pair.spec.evaluation.parameters) for pair in pairs},
        design={pair.spec.benchmark: pair.planned.record() for pair in pairs if pair.planned is not None},
        harness={
            evaluation.benchmark: evaluation.harness
            for pair in pairs
            if (evaluation := pair.spec.evaluation).harness != DEFAULT_HARNESS
        },
    )
    put = context.evidence.put
    written = [put(f"accuracy/{SAMPLES}", b"".join(lines(pair.candidate) for pair in pairs))]
    written.append(put(f"accuracy/{CONDITIONS}", conditions.dump().encode()))
    written += _replies(job, context, pairs)
    if judged:
        written.append(put(f"accuracy/baseline.{SAMPLES}", b"".join(lines(pair.baseline or ()) for pair in pairs)))
        differences = {
            pair.spec.benchmark: {
                **asdict(judged[pair.spec.benchmark]),
                "noise": None if (noise := own_noise(pair.baseline)) is None else asdict(noise),
            }
            for pair in pairs
            if pair.baseline is not None
        }
        written.append(put(DIFFERENCES, _pretty(differences)))
        written.append(put(FLIPPED, _flipped(pairs, judged)))
    return tuple(written)


def _flipped(pairs: Sequence[Pair], judged: Mapping[str, BenchmarkVerdict]) -> bytes:
    """One line per question whose majority answer changed, with the answers of both sides."""
    flipped = []
    for pair in pairs:
        if pair.baseline is None:
            continue
        name = pair.spec.benchmark
        before, after = _by_question(pair.baseline), _by_question(pair.candidate)
        for direction, questions in (("gained", judged[name].gained), ("lost", judged[name].lost)):
            for question in questions:
                line = {
                    "benchmark": name,
                    "question": question,
                    "change": direction,
                    "baseline": before[question],
                    "candidate": after[question],
                }
                flipped.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(flipped).encode()


def _by_question(samples: Sequence[Sample]) -> dict[str, list[str | None]]:
    answers: dict[str, list[str | None]] = {}
    for sample in sorted(samples, key=lambda sample: sample.repeat):
        answers.setdefault(f"{sample.subset}/{sample.question_id}", []).append(sample.answer)
    return answers


def _pretty(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def intact(result: accuracy_results.Accuracy, look: Look) -> str:
    """A score without a baseline is judged again once its baseline exists."""
    if not result.awaited:
        return ""
    known = baselines.known(Ledger(look.workspace.ledger).entries())
    return "its baseline is available now" if any(key in known for key in result.awaited) else ""


STAGE = Stage(
    result=results.ACCURACY,
    doing="evaluating",
    inputs=inputs,
    run=run,
    reads=(results.WEIGHTS, results.KERNELS, results.IMAGE),
    intact=intact,
    programs=("evaluation/grading/sandbox_main.py",),
    on_chip=True,
)
