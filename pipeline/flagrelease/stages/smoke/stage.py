"""smoke: pull the pushed image by digest, start it as users do, and check what the card documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.contract.stage import Stage


def inputs(job: Job) -> Mapping[str, Any]:
    cell = job.cell
    return {
        "container": cell.chip.container,
        "device": cell.chip.device,
        "serve": cell.model.serve,
        "sampling": cell.model.sampling,
        "stack": cell.stack,
        "source": cell.model.source,
    }


def run(job: Job, context: Context) -> results.Smoke:
    """Raises SmokeFailed with the results of all checks in its detail, and the SmokeFailed subclasses of `served`."""
    # `plan` needs the declaration only, and importing the work takes longer than planning.
    from flagrelease.stages.smoke import run as work

    return work.check_image(job, context)


STAGE = Stage(
    result=results.SMOKE,
    doing="checking the served image",
    inputs=inputs,
    run=run,
    reads=(results.WEIGHTS, results.KERNELS, results.IMAGE),
    on_chip=True,
)
