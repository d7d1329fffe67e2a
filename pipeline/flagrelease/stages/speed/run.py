"""Measure start after start of both stacks, until the speed at each load point is decided or the time is used up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from functools import partial

from flagrelease.config.cell import fingerprint
from flagrelease.config.matrix import Traffic
from flagrelease.contract import results, speed_results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.serving.server import Served
from flagrelease.stages.speed import load_tools
from flagrelease.stages.speed.alternate import Alternation, Tool
from flagrelease.stages.speed.inputs import chosen, inputs
from flagrelease.stages.speed.load import LoadGenerator, LoadPoint, Target
from flagrelease.stages.speed.pairs import Starts
from flagrelease.stages.speed.points import load_points
from flagrelease.stages.speed.report import Measured, judge, report
from flagrelease.verdict.speed import SpeedVerdict
from flagrelease.verdict.stats.speed import FEWEST_STARTS
from flagrelease.verdict.types import Verdict


def measure(job: Job, context: Context, *, tool: Tool | None = None) -> speed_results.Speed:
    """Raises ConfigError if no load fits the model's window, SmokeFailed or a subclass if a server fails under load."""
    load_tools.check(job.cell, os.environ)
    loads = load_points(job)
    scratch = context.workspace.scratch(job.cell.slug, "speed")
    seed = fingerprint(
        {
            "image": context.result(results.IMAGE).digest,
            "weights": context.result(results.WEIGHTS).digest,
            "inputs": inputs(job),
        }
    )[:16]
    starts = Starts(scratch / seed)
    alternation = Alternation(job, context, tool or choose, seed)
    clock = context.meter.clock
    end = clock.monotonic() + 60 * job.cell.profile.speed_minutes
    while undecided := [point for point, judged in _judged(starts, loads).items() if _open(judged)]:
        # Fewer starts have no interval, so they are measured however long they take.
        late = clock.monotonic() >= end
        if late and all(starts.count(point) >= FEWEST_STARTS for point in undecided):
            break
        alternation.start(starts.next, undecided, partial(starts.keep, starts.next), brief=late)
    judged = {point: judge(starts.at(point), traffic) for point, traffic in loads.items()}
    result = report(
        job, context, Measured(tool=alternation.name or starts.tool, starts=starts, judged=judged, seed=seed)
    )
    if result.verdict != Verdict.INCONCLUSIVE.value:
        shutil.rmtree(scratch, ignore_errors=True)  # what is undecided is continued by the next run
    return result


def choose(job: Job, context: Context, server: Served) -> LoadGenerator:
    """The load generator of the cell, for this server."""
    weights = context.result(results.WEIGHTS)
    target = Target(
        base_url=server.base_url,
        model=server.model,
        tokenizer=context.workspace.weights / weights.folder,
        port_inside=server.port_inside,
        folder_inside=server.folder_inside,
        execute=server.running.execute,
        command=context.ports.command,
    )
    return load_tools.LOAD_TOOLS[chosen(job.cell)].make(target, os.environ)


def _judged(starts: Starts, loads: Mapping[LoadPoint, Traffic]) -> dict[LoadPoint, SpeedVerdict | None]:
    """The verdict at each load point so far; None with too few starts."""
    return {
        point: judge(starts.at(point), traffic) if starts.count(point) >= FEWEST_STARTS else None
        for point, traffic in loads.items()
    }


def _open(judged: SpeedVerdict | None) -> bool:
    return judged is None or judged.verdict is Verdict.INCONCLUSIVE
