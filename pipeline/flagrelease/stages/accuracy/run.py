"""Evaluate the served image and the baseline, and compare their answers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flagrelease.config.cell import fingerprint
from flagrelease.config.lockfile import LockedData
from flagrelease.contract import accuracy_results, results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.errors import ConfigError
from flagrelease.evaluation import attempts, baselines
from flagrelease.evaluation.collect import Gathered, Pair, gather
from flagrelease.evaluation.datasets import load
from flagrelease.evaluation.harness import Harness
from flagrelease.evaluation.harnesses import choose
from flagrelease.evaluation.spec import EvalSpec, build_spec
from flagrelease.evaluation.tasks import task_named
from flagrelease.serving.operator_status import Counting
from flagrelease.serving.server import served
from flagrelease.serving.servers import Serve
from flagrelease.stages.accuracy import evidence
from flagrelease.stages.accuracy.judge import attempt, judge, score, score_alone
from flagrelease.verdict import rule
from flagrelease.verdict.attempts import Attempt
from flagrelease.verdict.types import BenchmarkVerdict, Verdict, reasons


def evaluate(
    job: Job, context: Context, *, harness: Harness | None = None, serve: Serve = served
) -> accuracy_results.Accuracy:
    """Ask, grade and judge.

    Raises ConfigError for a benchmark without data, SmokeFailed if the endpoint cannot be evaluated.
    """
    choose.check(job.cell, job.matrix.benchmarks)
    specs = build_specs(job, context)
    counting = Counting(serve)
    gathered = gather(job, context, specs, harness or choose.Harnesses(), counting)
    # After the token gate: a grossly faulty stack is not asked anything.
    outside = () if gathered.gate.verdict == "FAIL" else choose.outside_scores(job, context, counting)
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
    judged = judge(compared)
    own = (
        score_alone(pair, baselines.need(cell))
        if pair.baseline is None
        else replace(
            score(pair, judged[pair.spec.benchmark]),
            attempts=_attempts(job, context, pair, judged[pair.spec.benchmark]),
        )
        for pair in pairs
    )
    scores = (*own, *outside)
    gate = gathered.gate
    verdict = rule.decide_cell(scores, None if gate.verdict is None else Verdict(gate.verdict))
    weights = context.result(results.WEIGHTS)
    keys = {pair.spec.benchmark: baselines.key(cell, weights, pair.spec) for pair in compared}
    alone = [baselines.key(cell, weights, pair.spec) for pair in pairs if pair.baseline is None]
    return accuracy_results.Accuracy(
        verdict=verdict.value,
        reason=reasons(verdict, scores) or f"token gate: {gate.reason}",
        benchmarks=scores,
        baseline_name=baselines.name(cell),
        baseline_key=fingerprint(keys) if keys else "",
        sampling=sampling([pair.spec for pair in pairs]),
        questions_asked=gathered.asked,
        inference_seconds=round(gathered.seconds, 3),
        token_gate=gate,
        evidence=(*(evidence.write(job, context, pairs, judged) if pairs else ()), *gathered.evidence),
        awaited=tuple(key for key in alone if baselines.absent(context, key)),  # a partial baseline is not awaited
    )


def _attempts(job: Job, context: Context, pair: Pair, judged: BenchmarkVerdict) -> tuple[Attempt, ...]:
    """All attempts of the benchmark's lineage; this one is stored if it is new."""
    if pair.turn is None:
        return ()
    return attempts.record(context, job.cell.id, judged.benchmark, pair.turn, attempt(job, context, pair.turn, judged))


def sampling(specs: Sequence[EvalSpec]) -> dict[str, Any]:
    """The sampling parameters if all benchmarks share them, else the parameters of each benchmark as text."""
    each = {spec.benchmark: dict(spec.evaluation.parameters) for spec in specs}
    first = next(iter(each.values()), {})
    if all(parameters == first for parameters in each.values()):
        return first
    return {name: ", ".join(f"{key} {value}" for key, value in used.items()) for name, used in each.items()}
