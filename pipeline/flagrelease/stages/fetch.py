"""fetch: download everything that a cell needs, for a host without network. Not part of the regular stage sequence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.contract.stage import Stage
from flagrelease.evaluation.datasets import is_fetched, is_own, load
from flagrelease.packaging import wheelhouse
from flagrelease.packaging.requirements import locked_wheels
from flagrelease.stages.accuracy.run import fetch_data
from flagrelease.stages.weights import stage as weights


def inputs(job: Job) -> Mapping[str, Any]:
    return {
        "weights": weights.locked(job).digest,
        "packages": locked_wheels(job),
        "data": list(job.cell.profile.benchmarks),
    }


def run(job: Job, context: Context) -> results.Fetched:
    """Raises ConfigError if an entry is not locked, and the errors of hubs and package indexes."""
    space = context.workspace
    fetched = weights.fetched(job, context)
    paths = [space.weights / fetched.folder, space.weights / f"{fetched.folder}.json"]
    context.progress.doing("gathering Python packages")
    paths.append(wheelhouse.of(job, context).folder)
    own = []
    for name in job.cell.profile.benchmarks:
        benchmark = job.matrix.benchmarks[name]
        if is_own(benchmark):
            own.append(name)
        if not is_fetched(benchmark):
            continue
        context.progress.doing(f"fetching the questions of {name}")
        load(name, benchmark, job.lock, job.data_dir, fetch_data(context))
        paths.append(space.data / job.lock.benchmarks[name].file.sha256)
    return results.Fetched(
        folders=tuple(str(path.relative_to(space.root)) for path in paths),
        bytes=sum(file.stat().st_size for path in paths for file in _files(path)),
        own=tuple(own),
    )


def _files(root: Path) -> Iterator[Path]:
    return (path for path in ([root] if root.is_file() else root.rglob("*")) if path.is_file())


STAGE = Stage(result=results.FETCHED, doing="fetching what the cell needs", inputs=inputs, run=run)
