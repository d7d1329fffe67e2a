"""Asks the served image real questions, asks the baseline the same ones, and compares the answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagrelease import baselines, gates, results
from flagrelease.cell import fingerprint
from flagrelease.errors import ConfigError
from flagrelease.evaluation.data import digest_of, load
from flagrelease.evaluation.sheet import Sheet, draw_up
from flagrelease.evidence import Evidence
from flagrelease.lock import LockedData
from flagrelease.matrix import Stack
from flagrelease.ports.asking import OwnHarness
from flagrelease.ports.harness import Endpoint, Harness, Tally
from flagrelease.ports.progress import Count
from flagrelease.samples import CONDITIONS, SAMPLES, Conditions, Sample, dump, read_samples
from flagrelease.serving import served
from flagrelease.stage import Context, Job, Stage

if TYPE_CHECKING:
    from flagrelease.serving import Served

DIFFERENCES = "accuracy/comparison.json"
FLIPPED = "accuracy/flipped.jsonl"

Answers = dict[str, list[Sample]]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One stack's answers by benchmark, with what it took to get them."""

    answers: Answers
    asked: int
    seconds: float


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
    }


def run(job: Job, context: Context, *, harness: Harness | None = None) -> results.Accuracy:
    """Raises ConfigError for a benchmark without data, SmokeFailed for an endpoint that cannot be evaluated."""
    evaluator = harness or OwnHarness()
    cell = job.cell
    weights: results.Weights = context.upstream["weights"]
    sheets = draw_up_all(job, context)
    kept = {sheet.benchmark: baselines.find(context, cell, weights, sheet) for sheet in sheets}
    baseline: Answers = {name: samples for name, samples in kept.items() if samples is not None}
    missing = [sheet for sheet in sheets if sheet.benchmark not in baseline]
    spent: list[Answered] = []
    if missing and cell.own_baseline:
        spent.append(_answer(job, context, evaluator, missing, cell.baseline.stack))
        for sheet in missing:
            samples = baseline[sheet.benchmark] = spent[0].answers[sheet.benchmark]
            evidence = context.evidence.put(f"accuracy/{cell.baseline.stack}.{sheet.benchmark}.jsonl", _lines(samples))
            baselines.keep(context, cell, weights, sheet, samples, evidence)
    spent.append(_answer(job, context, evaluator, sheets, cell.stack))
    result = _judged(job, context, sheets, baseline, spent)
    # All of it is evidence now. Left here, it would answer for a release that is to be evaluated anew.
    shutil.rmtree(context.workspace.scratch(cell.slug, "accuracy"), ignore_errors=True)
    return result


def draw_up_all(job: Job, context: Context) -> list[Sheet]:
    """What is asked of every benchmark in the profile, its data fetched and checked."""

    def fetch(locked: LockedData) -> Path:
        into = context.workspace.data / locked.file.sha256
        with context.meter.waiting():
            return context.ports.hubs.file(
                locked.source, locked.file, locked.archive, into, context.progress, context.meter, locked.revision
            )

    if not job.cell.profile.benchmarks:
        raise ConfigError(f"profile {job.cell.profile_name} has no benchmarks", hint="name one under its `benchmarks`")
    sheets = []
    for name, share in job.cell.profile.benchmarks.items():
        context.progress.doing(f"reading the questions of {name}")
        benchmark = job.matrix.benchmarks[name]
        data = load(name, benchmark, job.lock, job.data_dir, fetch)
        sheets.append(draw_up(name, benchmark, share, data, job.cell.model))
    return sheets


def _answer(job: Job, context: Context, harness: Harness, sheets: Sequence[Sheet], stack: Stack) -> Answered:
    """Serve the image with `stack` and ask it all sheets, going on where a killed run stopped."""
    image: results.Image = context.upstream["image"]
    weights: results.Weights = context.upstream["weights"]
    answers: Answers = {}
    asked, seconds = 0, 0.0
    with served(job, context, image=image, weights=weights, stack=stack) as server:
        for sheet in sheets:
            path = _unfinished(job, context, sheet, stack)
            with context.meter.waiting():
                tally = harness.evaluate(
                    Endpoint(base_url=server.base_url, model=server.model),
                    sheet.evaluation,
                    path,
                    watch=_watch(server),
                    report=_report(context, stack, sheet),
                )
            answers[sheet.benchmark] = read_samples(path)
            asked += tally.asked
            seconds += tally.seconds
    return Answered(answers=answers, asked=asked, seconds=seconds)


def _unfinished(job: Job, context: Context, sheet: Sheet, stack: Stack) -> Path:
    """Where the answers grow: a place named by everything they depend on, this very image included."""
    depends = {
        "image": context.upstream["image"].digest,
        "weights": context.upstream["weights"].digest,
        "stack": stack,
        **sheet.conditions,
    }
    folder = context.workspace.scratch(job.cell.slug, "accuracy")
    return folder / stack / f"{sheet.benchmark}-{fingerprint(depends)[:16]}" / SAMPLES


def _watch(server: Served) -> Callable[[], None]:
    return server.check


def _report(context: Context, stack: Stack, sheet: Sheet) -> Callable[[Tally], None]:
    def report(tally: Tally) -> None:
        failed = f", {tally.errors} failed" if tally.errors else ""
        text = f"{stack}: {sheet.benchmark}, accuracy {tally.accuracy:.2f}{failed}"
        context.progress.doing(text, Count(tally.done, tally.total, "questions" if sheet.repeats == 1 else "answers"))

    return report


def _judged(
    job: Job, context: Context, sheets: Sequence[Sheet], baseline: Answers, spent: Sequence[Answered]
) -> results.Accuracy:
    cell = job.cell
    candidate = spent[-1].answers
    compared = [sheet for sheet in sheets if sheet.benchmark in baseline]
    comparison = _compare(compared, baseline, candidate) if compared else None
    scores = tuple(
        _score(sheet, baseline[sheet.benchmark], candidate[sheet.benchmark], comparison.benchmarks[sheet.benchmark])
        if comparison is not None and sheet in compared
        else _alone(sheet, candidate[sheet.benchmark], baselines.need(cell))
        for sheet in sheets
    )
    verdict = gates.worst_verdict(gates.Verdict(score.verdict) for score in scores)
    decisive = [score for score in scores if score.verdict == verdict]
    return results.Accuracy(
        verdict=verdict.value,
        reason="; ".join(f"{score.benchmark}: {score.reason}" for score in decisive),
        benchmarks=scores,
        baseline_name=baselines.name(cell),
        baseline_key=fingerprint(
            {sheet.benchmark: baselines.key(cell, context.upstream["weights"], sheet) for sheet in compared}
        )
        if compared
        else "",
        sampling=sampling(sheets),
        questions_asked=sum(one.asked for one in spent),
        inference_seconds=round(sum(one.seconds for one in spent), 3),
        evidence=_evidence(context, sheets, baseline, candidate, comparison),
    )


def _compare(sheets: Sequence[Sheet], baseline: Answers, candidate: Answers) -> gates.Comparison:
    names = [sheet.benchmark for sheet in sheets]
    found = gates.compare(
        [sample for name in names for sample in baseline[name]],
        [sample for name in names for sample in candidate[name]],
        margins={sheet.benchmark: sheet.margin for sheet in sheets},
    )
    judged = dict(found.benchmarks)
    for sheet in sheets:
        before, after = baseline[sheet.benchmark], candidate[sheet.benchmark]
        if sheet.guessing(judged[sheet.benchmark].baseline_score):
            judged[sheet.benchmark] = gates.guessed(
                judged[sheet.benchmark], differing=_differing(before, after), answers=len(after)
            )
    return gates.Comparison(
        verdict=gates.worst_verdict(one.verdict for one in judged.values()), benchmarks=judged
    )


def _score(
    sheet: Sheet, before: Sequence[Sample], samples: Sequence[Sample], judged: gates.BenchmarkVerdict
) -> results.BenchmarkScore:
    same = len(samples) - _differing(before, samples)
    remarks = [*judged.remarks, f"the same answer {same} times of {len(samples)}"]
    return results.BenchmarkScore(
        benchmark=sheet.benchmark,
        metric=sheet.metric,
        n=judged.n,
        repeats=judged.repeats,
        baseline=judged.baseline_score,
        candidate=judged.candidate_score,
        difference=judged.difference,
        interval90=judged.interval90,
        margin=judged.margin,
        p_regression=judged.p_regression,
        flips=(len(judged.gained), len(judged.lost)),
        errors=sum(sample.error is not None for sample in samples),
        truncated=judged.candidate.truncated,
        partial=sheet.partial,
        data_sha256=sheet.data_sha256,
        verdict=judged.verdict.value,
        reason="; ".join((judged.reason, *remarks)),
    )


def _differing(before: Sequence[Sample], after: Sequence[Sample]) -> int:
    """How many answers are not the same, right or wrong; an error is no answer, and equals none."""
    given = {sample.key: sample.answer for sample in before if sample.error is None}
    return sum(one.error is not None or one.key not in given or given[one.key] != one.answer for one in after)


def _alone(sheet: Sheet, samples: Sequence[Sample], why: str) -> results.BenchmarkScore:
    """A score with nothing to compare it with: a state of its own, never a pass."""
    return results.BenchmarkScore(
        benchmark=sheet.benchmark,
        metric=sheet.metric,
        n=len(sheet.questions),
        repeats=sheet.repeats,
        baseline=None,
        candidate=sum(float(sample.correct) for sample in samples) / len(samples),
        difference=None,
        interval90=None,
        margin=sheet.margin,
        p_regression=None,
        flips=None,
        errors=sum(sample.error is not None for sample in samples),
        truncated=sum(sample.finish_reason == "length" for sample in samples),
        partial=sheet.partial,
        data_sha256=sheet.data_sha256,
        verdict="INCONCLUSIVE",
        reason=why,
    )


def sampling(sheets: Sequence[Sheet]) -> dict[str, Any]:
    """The parameters of all requests where they are the same, else those of each benchmark as text."""
    each = {sheet.benchmark: dict(sheet.evaluation.parameters) for sheet in sheets}
    first = next(iter(each.values()))
    if all(parameters == first for parameters in each.values()):
        return first
    return {name: ", ".join(f"{key} {value}" for key, value in used.items()) for name, used in each.items()}


def _evidence(
    context: Context,
    sheets: Sequence[Sheet],
    baseline: Answers,
    candidate: Answers,
    comparison: gates.Comparison | None,
) -> tuple[Evidence, ...]:
    """Both answer sets with their conditions, the comparison, and the questions that flipped."""
    conditions = Conditions(
        model=context.upstream["weights"].digest,
        data={sheet.benchmark: sheet.data_sha256 for sheet in sheets},
        sampling={sheet.benchmark: dict(sheet.evaluation.parameters) for sheet in sheets},
    )
    put = context.evidence.put
    names = [sheet.benchmark for sheet in sheets]
    kept = [put(f"accuracy/{SAMPLES}", _lines(sample for name in names for sample in candidate[name]))]
    kept.append(put(f"accuracy/{CONDITIONS}", conditions.dump().encode()))
    if comparison is not None:
        answers = _lines(sample for name in names for sample in baseline.get(name, ()))
        kept.append(put(f"accuracy/baseline.{SAMPLES}", answers))
        kept.append(put(DIFFERENCES, _pretty({name: asdict(one) for name, one in comparison.benchmarks.items()})))
        kept.append(put(FLIPPED, _flipped(comparison, baseline, candidate)))
    return tuple(kept)


def _flipped(comparison: gates.Comparison, baseline: Answers, candidate: Answers) -> bytes:
    """One line for each question whose majority answer changed: what both sides answered."""
    lines = []
    for name, judged in comparison.benchmarks.items():
        before, after = (_by_question(side[name]) for side in (baseline, candidate))
        for direction, questions in (("gained", judged.gained), ("lost", judged.lost)):
            for question in questions:
                line = {
                    "benchmark": name,
                    "question": question,
                    "change": direction,
                    "baseline": before[question],
                    "candidate": after[question],
                }
                lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines).encode()


def _by_question(samples: Sequence[Sample]) -> dict[str, list[str | None]]:
    found: dict[str, list[str | None]] = {}
    for sample in sorted(samples, key=lambda one: one.repeat):
        found.setdefault(f"{sample.subset}/{sample.question_id}", []).append(sample.answer)
    return found


def _lines(samples: Any) -> bytes:
    return "".join(map(dump, samples)).encode()


def _pretty(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


STAGE = Stage(
    name="accuracy",
    doing="evaluating",
    result=results.Accuracy,
    inputs=inputs,
    run=run,
    reads=("weights", "image"),
    on_chip=True,
)
