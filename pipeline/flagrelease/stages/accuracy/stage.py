"""accuracy: ask the served image and the baseline the same questions, and compare the answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flagrelease.contract import accuracy_results, results
from flagrelease.contract.context import Context, Look
from flagrelease.contract.job import Job
from flagrelease.contract.stage import Stage
from flagrelease.evaluation.datasets import digest_of
from flagrelease.store.ledger import Ledger


def inputs(job: Job) -> Mapping[str, Any]:
    cell, lock = job.cell, job.lock
    benchmarks = {
        name: {
            "benchmark": job.matrix.benchmarks[name],
            "share": share,
            "data": digest_of(name, job.matrix.benchmarks[name], lock, job.data_dir),
        }
        for name, share in cell.profile.benchmarks.items()
    }
    return {
        "model": lock.models[cell.model_name].digest if cell.model_name in lock.models else "",
        "engine": cell.model.serve.engine,
        "concurrency": cell.model.serve.concurrency,
        "sampling": cell.model.sampling,
        "stack": cell.stack,
        "baseline": cell.baseline,
        "benchmarks": benchmarks,
        "sequential": cell.profile.sequential,
        "harness": cell.profile.harness,
        "gate_tokens": cell.profile.gate_tokens,
    }


def run(job: Job, context: Context) -> accuracy_results.Accuracy:
    """Raises ConfigError for a benchmark without data, SmokeFailed if the endpoint cannot be evaluated."""
    # `plan` needs the declaration only, and importing the work takes longer than planning.
    from flagrelease.stages.accuracy import run as work

    return work.evaluate(job, context)


def intact(result: accuracy_results.Accuracy, look: Look) -> str:
    """A score without a baseline is judged again once its baseline exists."""
    if not result.awaited:
        return ""
    # Imported here since most results are not awaiting a baseline, and it imports much of the evaluation.
    from flagrelease.evaluation import baselines

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
