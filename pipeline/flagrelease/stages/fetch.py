"""fetch: all that a cell takes from the network, for a host that reaches none. Not one of the usual stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.contract.stage import Stage
from flagrelease.evaluation.datasets import is_own, load
from flagrelease.packaging import wheelhouse
from flagrelease.stages import accuracy
from flagrelease.stages.weights import stage as weights


def inputs(job: Job) -> Mapping[str, Any]:
    name = job.cell.wheels_entry
    job.lock.require("wheels", name)
    return {
        "weights": weights.locked(job).digest,
        "packages": job.lock.wheels[name],
        "data": list(job.cell.profile.benchmarks),
    }


def run(job: Job, context: Context) -> results.Fetched:
    """Raises ConfigError where something is not locked, and what hubs and package indexes raise."""
    space = context.workspace
    found = weights.fetched(job, context)
    places = [space.weights / found.folder, space.weights / f"{found.folder}.json"]
    context.progress.doing("gathering Python packages")
    places.append(wheelhouse.of(job, context).folder)
    own = []
    for name in job.cell.profile.benchmarks:
        benchmark = job.matrix.benchmarks[name]
        if is_own(benchmark):
            own.append(name)
            continue
        context.progress.doing(f"fetching the questions of {name}")
        load(name, benchmark, job.lock, job.data_dir, accuracy.fetch_data(context))
        places.append(space.data / job.lock.benchmarks[name].file.sha256)
    return results.Fetched(
        folders=tuple(str(place.relative_to(space.root)) for place in places),
        bytes=sum(file.stat().st_size for place in places for file in _files(place)),
        own=tuple(own),
    )


def _files(place: Path) -> Iterator[Path]:
    return (path for path in ([place] if place.is_file() else place.rglob("*")) if path.is_file())


STAGE = Stage(result=results.FETCHED, doing="fetching what the cell needs", inputs=inputs, run=run)
