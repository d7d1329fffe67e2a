"""speed: measure the image under load, alternating with the native stack on the same chip.

Where both servers fit (a CPU, or a small model) they are up at the same time, and each request, or group of concurrent
requests, goes to one and then to the other. Where an accelerator's memory holds only one, they are started in turn. In
both cases they are restarted at least three times, since a server's speed differs from start to start.
"""

from __future__ import annotations

from flagrelease.contract import results, speed_results
from flagrelease.contract.context import Context, Look
from flagrelease.contract.job import Job
from flagrelease.contract.stage import Stage
from flagrelease.stages.speed.inputs import BASELINE, inputs
from flagrelease.verdict.types import Verdict


def skip(job: Job) -> str:
    if not job.cell.profile.speed:
        return f"profile {job.cell.profile_name} has no `speed`"
    if job.cell.stack == BASELINE:
        return "the native stack is the baseline of speed"
    return ""


def run(job: Job, context: Context) -> speed_results.Speed:
    """Raises ConfigError if no load fits the model's window, SmokeFailed or a subclass if a server fails under load."""
    # `plan` needs the declaration only, and importing the work takes longer than planning.
    from flagrelease.stages.speed import run as work

    return work.measure(job, context)


def intact(result: speed_results.Speed, _look: Look) -> str:
    """An undecided measurement is continued by every run until it is decided."""
    return "undecided: measured further" if result.verdict == Verdict.INCONCLUSIVE.value else ""


STAGE = Stage(
    result=results.SPEED,
    doing="measuring speed",
    inputs=inputs,
    run=run,
    intact=intact,
    reads=(results.WEIGHTS, results.IMAGE, results.SMOKE),
    on_chip=True,
    skip=skip,
)
