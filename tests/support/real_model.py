"""The real model of the CPU cell, served by processes of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import support.served_cell as given
from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.ports.hub import RealHubs
from flagrelease.ports.processes.runner import ProcessRunner
from flagrelease.serving.server import Served, ServeRequest, served
from flagrelease.stages.image import stage as image
from flagrelease.stages.weights import stage as weights
from flagrelease.store.workspace import Workspace
from support.contexts import Remembered, after

BENCHMARK = "short-tasks"


@dataclass(frozen=True)
class RealModel:
    """The finished stages weights and image of the CPU cell, without Docker and registry."""

    job: Job
    context: Context
    weights: results.Weights
    image: results.Image

    @property
    def gguf(self) -> Path:
        (path,) = (self.context.workspace.weights / self.weights.folder).rglob("*.gguf")
        return path

    def fresh(self) -> Context:
        """A context that knows no baseline yet."""
        return replace(after(self.context, weights=self.weights, image=self.image), shared=Remembered())

    def asking(self, seed: int, questions: int | None = None, *, gate_tokens: int = 0) -> Job:
        """The job with questions of another seed, and their number if given; by default without the token gate."""
        benchmark = self.job.matrix.benchmarks[BENCHMARK]
        source, _, drawn = benchmark.data.partition("?")
        number = questions or int(drawn.rpartition("=")[2])
        changed = replace(benchmark, data=f"{source}?seed={seed}&questions={number}")
        profile = replace(self.job.cell.profile, gate_tokens=gate_tokens)
        return replace(
            self.job,
            cell=replace(self.job.cell, profile=profile),
            matrix=replace(self.job.matrix, benchmarks={**self.job.matrix.benchmarks, BENCHMARK: changed}),
        )

    @contextmanager
    def served(self) -> Iterator[Served]:
        """The native stack."""
        request = ServeRequest(image=self.image, weights=self.weights, stack="native")
        with served(self.job, self.fresh(), request) as server:
            yield server


def real_model(root: Path, *, threads: int = 1) -> RealModel:
    """Fetch the model and lay out its image in `root`. Skips the test where this machine cannot serve it."""
    runner = ProcessRunner(Workspace(root))
    cell = given.cell(args={"threads": threads}, max_model_len=2048)
    given.need_machine(runner, cell.chip.python)
    job = replace(given.job(cell), runner="process")
    nothing: Any = None
    empty = given.context(root, runner=runner)
    context = replace(
        empty, ports=replace(empty.ports, runner=runner, hubs=RealHubs(), docker=nothing, registry=nothing)
    )
    fetched = weights.run(job, context)
    return RealModel(job, context, fetched, image.run(job, after(context, weights=fetched)))
