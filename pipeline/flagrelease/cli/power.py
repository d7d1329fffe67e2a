"""Forecast an evaluation's cost and statistical power before anything runs. Pure."""

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
"""The power that the required sample size is calculated for."""
LOSSES = (0.02, 0.05, 0.10)
"""True losses (fractions of the score) that the forecast covers."""


def forecasts(job: Job) -> list[Forecast]:
    """One forecast per benchmark of the cell's profile, with the largest possible variance of a pair.

    The number of questions comes from the locked data, or else from the benchmark's `total`; a benchmark for which
    neither is known is left out. Where the chip cannot hold both stacks, the baseline is complete from the start.
    """
    from flagrelease.verdict.stats.design import Design
    from flagrelease.verdict.stats.planner import forecast

    result, cell = [], job.cell
    grows = cell.own_baseline and cell.holds_both
    for name, share in cell.profile.benchmarks.items():
        benchmark = job.matrix.benchmarks[name]
        locked = job.lock.benchmarks.get(name)
        available = locked.rows if locked is not None else benchmark.total
        if available is None:
            continue
        repeats = share.repeats or benchmark.repeats
        design = Design(
            questions=min(share.limit or available, available),
            margin=benchmark.margin,
            repeats=repeats,
            fail_alpha=ALPHA / len(cell.profile.benchmarks),
        )
        reference = repeats if repeats > 1 and not grows else 0
        result.append(forecast(name, design, power=POWER, reference=reference, losses=LOSSES))
    return result


def table(jobs: Sequence[Job]) -> str:
    """One row per benchmark: the maximum number of answers of each side; with a sequential profile, the expected
    number of the candidate's answers; the probabilities of PASS and of detecting a loss; the fixed sample size
    needed."""
    rows = []
    for job in jobs:
        for number, result in enumerate(forecasts(job)):
            expected = [f"{result.sequential[loss].pairs:,.0f}" for loss in (0.0, LOSSES[-1])]
            if not job.cell.profile.sequential:
                expected = ["–", "–"]
            margin = f"{100 * result.needed.margin:g} pt"
            label = job.cell.id if number == 0 else ""
            finds = [f"{result.finds[loss]:.0%}" for loss in LOSSES]
            row = [label, result.benchmark, margin, f"{result.answers:,}", *expected, f"{result.passes:.0%}", *finds]
            rows.append([*row, f"{result.needed.pairs:,}"])
    heading = ["cell", "benchmark", "margin", "maximum", "expected if equal", f"at {100 * LOSSES[-1]:g} pt"]
    heading += ["PASS if equal", *(f"detects {100 * loss:g} pt" for loss in LOSSES), f"needed for {POWER:.0%}"]
    note = (
        "maximum, expected: answers of the candidate, if all are collected or until a sequential evaluation stops. The "
        "variance of a\npair is assumed to be 0.25, the largest possible; stacks that mostly agree need fewer answers."
    )
    return aligned(heading, rows, right=range(2, 11)) + f"\n\n{note}"


def as_json(job: Job) -> list[dict[str, Any]]:
    """The output of `plan --power --json` for one cell: an object per benchmark."""
    return [
        {
            "benchmark": result.benchmark,
            "answers": result.answers,
            "margin": result.needed.margin,
            "passes_if_equal": _plain(result.passes),
            "finds": {f"{loss:g}": _plain(chance) for loss, chance in result.finds.items()},
            "needed": result.needed.pairs,
            "sequential": {
                f"{loss:g}": {
                    "answers": round(expected.pairs),
                    "passes": _plain(expected.passes),
                    "fails": _plain(expected.fails),
                }
                for loss, expected in result.sequential.items()
            }
            if job.cell.profile.sequential
            else None,
        }
        for result in forecasts(job)
    ]


def _plain(chance: float) -> float:
    return round(chance, 4) if math.isfinite(chance) else 0.0
