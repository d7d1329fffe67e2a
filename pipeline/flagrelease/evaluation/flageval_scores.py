"""Scores from the FlagEval platform: reported for both stacks, always with the verdict INCONCLUSIVE.

The platform reports a score for each data set and no answers. Without answers nothing can be paired by question, so
there is neither an interval nor a test, and equal scores may be chance. The card shows the scores with that reason.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flagrelease.config.cell import Cell, fingerprint
from flagrelease.config.matrix import Benchmark, Stack
from flagrelease.contract.accuracy_results import BenchmarkScore
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.contract.results import IMAGE, WEIGHTS
from flagrelease.errors import ConfigError
from flagrelease.evaluation import baselines
from flagrelease.evaluation.harness import Adapter
from flagrelease.evaluation.harnesses.flageval import (
    ENDPOINT,
    SERVICE,
    TOKEN,
    FlagEval,
    Progress,
    Submission,
    dataset_name,
    public_url,
)
from flagrelease.ports.credentials import token_for
from flagrelease.ports.progress import Count
from flagrelease.serving.server import Served, ServeRequest
from flagrelease.serving.servers import Serve

__all__ = ["ADAPTER", "score"]

QUESTIONS: Mapping[str, int] = {
    "aime": 30,
    "gpqa": 1192,
    "livebench": 910,
    "mmlu": 14042,
    "musr": 756,
    "math500": 500,
    "gpqadiamond": 198,
    "mmlupro": 12032,
    "gsm8k": 1319,
}
"""The number of questions of the platform's data sets, from `dataset_map` in upstream's server source."""

WHY = "FlagEval reports scores but no answers, so nothing can be paired and there is no interval"


@dataclass(frozen=True, kw_only=True)
class StoredScores:
    """A baseline stack's scores in the ledger."""

    model: str
    """The digest of the weights."""
    chip: str
    """The chip's name in matrix.yaml."""
    stack: str
    """The stack evaluated."""
    scores: Mapping[str, float]
    """The score (a fraction of 1) of each data set, by the platform's name."""
    run: str
    """The id of the run that stored it."""


def score(job: Job, context: Context, serve: Serve, names: Sequence[str]) -> tuple[BenchmarkScore, ...]:
    """Both stacks' scores of the benchmarks `names`. Raises ConfigError for one that the platform does not have."""
    flageval = FlagEval(os.environ[SERVICE], token_for(os.environ[SERVICE], TOKEN) or "")
    baseline = _baseline(job, context, serve, flageval)
    candidate = _evaluate(job, context, serve, flageval, job.cell.stack)
    return tuple(_row(job, name, baseline, candidate) for name in names)


def _baseline(job: Job, context: Context, serve: Serve, platform: FlagEval) -> Mapping[str, float] | None:
    """The stored scores, or new ones if this chip evaluates its own baseline; else None."""
    cell = job.cell
    earlier = context.shared.recall(_key(cell, context), StoredScores)
    if earlier is not None:
        return earlier.scores
    if not cell.own_baseline:
        return None
    scores = _evaluate(job, context, serve, platform, cell.baseline.stack)
    stored = StoredScores(
        model=context.result(WEIGHTS).digest,
        chip=cell.baseline.chip,
        stack=cell.baseline.stack,
        scores=scores,
        run=context.run_id,
    )
    context.shared.remember(_key(cell, context), stored)
    return scores


def _evaluate(job: Job, context: Context, serve: Serve, platform: FlagEval, stack: Stack) -> dict[str, float]:
    image, weights = context.result(IMAGE), context.result(WEIGHTS)
    folder = context.workspace.scratch(job.cell.slug, "accuracy") / "flageval"
    request = ServeRequest(image=image, weights=weights, stack=stack)
    with serve(job, context, request) as served:

        def report(progress: Progress) -> None:
            count = Count(progress.done, progress.total, "data sets")
            context.progress.doing(f"{stack}: FlagEval, {progress.running or 'waiting'}", count)

        with context.meter.waiting():
            return platform.evaluate(
                _submission(job.cell, served, stack),
                folder / f"{stack}-{image.digest.removeprefix('sha256:')[:16]}.json",
                watch=served.check,
                report=report,
            )


def _submission(cell: Cell, served: Served, stack: Stack) -> Submission:
    model = cell.model
    name = "origin" if stack == "native" else stack
    return Submission(
        eval_url=public_url(os.environ[ENDPOINT], served.base_url),
        model=served.model,
        eval_model=f"{cell.model_name}-{cell.chip.vendor}-{name}",
        base_model_name=model.title,
        chip=cell.chip.device.name,
        gen_kwargs=_sampling(cell),
        num_concurrent=model.serve.concurrency,
        thinking=model.sampling.thinking,
    )


def _sampling(cell: Cell) -> str:
    sampling = cell.model.sampling
    values = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_gen_toks": sampling.max_tokens,
    }
    return ",".join(f"{name}={value}" for name, value in values.items() if value is not None)


def _key(cell: Cell, context: Context) -> str:
    return fingerprint(
        {
            "flageval": os.environ[SERVICE],
            "model": context.result(WEIGHTS).digest,
            "engine": cell.model.serve.engine,
            "chip": cell.baseline.chip,
            "stack": cell.baseline.stack,
            "sampling": _sampling(cell),
            "thinking": cell.model.sampling.thinking,
        }
    )


def _row(job: Job, name: str, baseline: Mapping[str, float] | None, candidate: Mapping[str, float]) -> BenchmarkScore:
    benchmark = job.matrix.benchmarks[name]
    dataset = _dataset(benchmark, candidate)
    before = None if baseline is None else baseline.get(dataset)
    n = QUESTIONS.get(dataset_name(dataset), benchmark.total or 0)
    if n == 0:
        raise ConfigError(f"benchmark {name} has no size", why="FlagEval does not report it", hint="set its `total`")
    return BenchmarkScore(
        benchmark=name,
        metric=dataset,
        n=n,
        repeats=1.0,
        baseline=before,
        candidate=candidate[dataset],
        difference=None if before is None else candidate[dataset] - before,
        interval90=None,
        margin=benchmark.margin,
        p_regression=None,
        flips=None,
        errors=0,
        truncated=0,
        partial="",
        data_sha256="not reported by FlagEval",
        verdict="INCONCLUSIVE",
        reason=f"{baselines.need(job.cell)}; {WHY}" if before is None else f"{WHY}; `harness: own` gives a verdict",
    )


def _dataset(benchmark: Benchmark, scores: Mapping[str, float]) -> str:
    """The platform's name of a benchmark. Raises ConfigError if it has none."""
    wanted = dataset_name(benchmark.title)
    for name in scores:
        if dataset_name(name) == wanted:
            return name
    raise ConfigError(
        f"FlagEval has no {benchmark.title}", why=f"it reported {', '.join(scores)}", hint="set `harness: own` for it"
    )


def _lacking(env: Mapping[str, str]) -> tuple[str, str] | None:
    if not env.get(SERVICE):
        return f"{SERVICE} is not set", f"set {SERVICE} to the platform's URL; {TOKEN} is its key, if it requires one"
    if not env.get(ENDPOINT):
        return (
            f"{ENDPOINT} is not set",
            f"set {ENDPOINT} to the URL at which the platform reaches this host's servers",
        )
    return None


ADAPTER = Adapter(score=score, lacking=_lacking)
