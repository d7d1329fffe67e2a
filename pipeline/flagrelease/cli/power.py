"""What the evaluation of a cell will cost and can decide, before anything runs. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flagrelease.cli.text_table import aligned
from flagrelease.contract.job import Job
from flagrelease.verdict.types import ALPHA

if TYPE_CHECKING:
    from flagrelease.verdict.stats.planner import Forecast

POWER = 0.80
LOSSES = (0.02, 0.05, 0.10)


def forecasts(job: Job) -> list[Forecast]:
    """One for each benchmark of the cell's profile, with the safe guess of a pair's variance.

    The number of questions is that of the locked data, else the benchmark's `total`; a benchmark of which
    neither is known is left out. Where the chip cannot hold both stacks, the baseline is there in whole.
    """
    from flagrelease.verdict.stats.design import Design
    from flagrelease.verdict.stats.planner import forecast

    found, cell = [], job.cell
    grows = cell.own_baseline and cell.holds_both
    for name, share in cell.profile.benchmarks.items():
        benchmark = job.matrix.benchmarks[name]
        locked = job.lock.benchmarks.get(name)
        there = locked.rows if locked is not None else benchmark.total
        if there is None:
            continue
        repeats = share.repeats or benchmark.repeats
        design = Design(
            questions=min(share.limit or there, there),
            margin=benchmark.margin,
            repeats=repeats,
            fail_alpha=ALPHA / len(cell.profile.benchmarks),
        )
        reference = repeats if repeats > 1 and not grows else 0
        found.append(forecast(name, design, power=POWER, reference=reference, losses=LOSSES))
    return found


def table(jobs: Sequence[Job]) -> str:
    """A row a benchmark: answers of each side in whole and, where the profile is sequential, as many as are expected
    to be asked of the candidate; the chances of PASS and of finding a loss; the fixed plan that is needed."""
    rows = []
    for job in jobs:
        for number, one in enumerate(forecasts(job)):
            expected = [f"{one.sequential[loss].pairs:,.0f}" for loss in (0.0, LOSSES[-1])]
            if not job.cell.profile.sequential:
                expected = ["–", "–"]
            margin = f"{100 * one.needed.margin:g} pt"
            label = job.cell.id if number == 0 else ""
            finds = [f"{one.finds[loss]:.0%}" for loss in LOSSES]
            row = [label, one.benchmark, margin, f"{one.answers:,}", *expected, f"{one.passes:.0%}", *finds]
            rows.append([*row, f"{one.needed.pairs:,}"])
    heading = ["cell", "benchmark", "margin", "in whole", "expected if equal", f"at {100 * LOSSES[-1]:g} pt"]
    heading += ["PASS if equal", *(f"finds {100 * loss:g} pt" for loss in LOSSES), f"needed for {POWER:.0%}"]
    note = (
        "in whole, expected: answers of the candidate, all of them or until a sequential evaluation has decided. The "
        "variance of a\npair is taken as 0.25, the largest; stacks that mostly give the same answers need fewer."
    )
    return aligned(heading, rows, right=range(2, 11)) + f"\n\n{note}"


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
            "sequential": {
                f"{loss:g}": {"answers": round(at.pairs), "passes": _plain(at.passes), "fails": _plain(at.fails)}
                for loss, at in one.sequential.items()
            }
            if job.cell.profile.sequential
            else None,
        }
        for one in forecasts(job)
    ]


def _plain(chance: float) -> float:
    return round(chance, 4) if math.isfinite(chance) else 0.0
