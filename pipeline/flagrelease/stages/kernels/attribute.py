"""attribute: after a failed gate, identify the operators that caused it. Not part of the regular stage sequence.

Runs `python -m flagkernels attribute` on the chip with the bundle of the image: it compares the log-probabilities of a
fixed text with the native kernels, with all operators of the bundle, and with each operator alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.contract.stage import Stage
from flagrelease.packaging.operator_bundle import PROGRAMS

_TOKENS = 1024


def inputs(job: Job) -> Mapping[str, Any]:
    return {"device": job.cell.kernels.device, "tokens": _TOKENS, "runner": job.runner}


def run(job: Job, context: Context) -> results.Attribution:
    """Raises EnvironmentFault if chip or base image lack a requirement, CommandFailed on timeout."""
    # `plan` needs the declaration only, and importing the work takes longer than planning.
    from flagrelease.stages.kernels import attribute_run

    return attribute_run.attribute(job, context, _TOKENS)


STAGE = Stage(
    result=results.ATTRIBUTION,
    doing="identifying the operators at fault",
    inputs=inputs,
    run=run,
    reads=(results.WEIGHTS, results.KERNELS, results.IMAGE),
    programs=PROGRAMS,
    on_chip=True,
)
