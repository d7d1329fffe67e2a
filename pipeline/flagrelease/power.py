"""What the evaluation of a cell will cost and can decide, before anything runs. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flagrelease.stage import Job
from flagrelease.tables import aligned

if TYPE_CHECKING:
    from flagrelease.stats.planner import Forecast

POWER = 0.80
LOSSES = (0.02, 0.05, 0.10)


def forecasts(job: Job) -> list[Forecast]:
    """One for each benchmark of the cell's profile, with the safe guess of a pair's variance.

    The number of questions is that of the locked data, else the benchmark's `total`; a benchmark of which
    neither is known is left out.
    """
    from flagrelease.stats.planner import forecast

    found = []
    for name, share in job.cell.profile.benchmarks.items():
        benchmark = job.matrix.benchmarks[name]
        locked = job.lock.benchmarks.get(name)
        there = locked.rows if locked is not None else benchmark.total
        if there is None:
            continue
        found.append(
            forecast(
                name,
                questions=min(share.limit or there, there),
                repeats=share.repeats or benchmark.repeats,
                margin=benchmark.margin,
                power=POWER,
                losses=LOSSES,
            )
        )
    return found


def table(jobs: Sequence[Job]) -> str:
    """A row a benchmark: answers on each side, chance of PASS at no loss, chance to find each loss, what is needed."""
    rows = []
    for job in jobs:
        for number, one in enumerate(forecasts(job)):
            finds = [f"{one.finds[loss]:.0%}" for loss in LOSSES]
            margin = f"{100 * one.needed.margin:g} pt"
            needed = f"{one.needed.pairs:,}"
            label = job.cell.id if number == 0 else ""
            row = [label, one.benchmark, f"{one.answers:,}", margin, f"{one.passes:.0%}", *finds]
            rows.append([*row, needed, f"{one.sequential:,}"])
    heading = ["cell", "benchmark", "answers", "margin", "PASS if equal"]
    heading += [f"finds {100 * loss:g} pt" for loss in LOSSES]
    heading += [f"needed for {POWER:.0%}", "sequential"]
    note = (
        "answers: on each side. The variance of a pair is taken as 0.25, the largest; stacks that mostly give the same "
        "answers need fewer."
    )
    return aligned(heading, rows, right=range(2, 10)) + f"\n\n{note}"


def as_json(job: Job) -> list[dict[str, Any]]:
    """The form of `plan --power --json`, a list for each cell."""
    return [
        {
            "benchmark": one.benchmark,
            "answers": one.answers,
            "margin": one.needed.margin,
            "passes_if_equal": _plain(one.passes),
            "finds": {f"{loss:g}": _plain(chance) for loss, chance in one.finds.items()},
            "needed": one.needed.pairs,
            "sequential": one.sequential,
        }
        for one in forecasts(job)
    ]


def _plain(chance: float) -> float:
    return round(chance, 4) if math.isfinite(chance) else 0.0
