"""Forecast an evaluation's cost and statistical power before anything runs. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flagrelease.cli.display import spell
from flagrelease.cli.text_table import figures, wrapped
from flagrelease.config.sources import Generated
from flagrelease.contract.job import Job
from flagrelease.verdict.attempts import level
from flagrelease.verdict.types import ALPHA, BASELINE_WEIGHT, FAIL_ALPHA, RESERVE

if TYPE_CHECKING:
    from flagrelease.store.ledger import Ledger
    from flagrelease.verdict.stats.planner import Forecast

POWER = 0.80
"""The power that the required sample size is calculated for."""
LOSSES = (0.02, 0.05, 0.10)
"""True losses (fractions of the score) that the forecast covers."""
GREEDY = 0.10
"""The variance of a pair of greedy answers: of ten requests, at most one is graded differently by the two stacks."""

_WORST = f"{100 * LOSSES[-1]:g} pt"
_NOTES = (
    "pt: percentage points of the score.",
    "maximum: the candidate's answers if all questions are asked.",
    f"expected: its answers until a sequential evaluation stops, if it is equal and if it is {_WORST} worse.",
    "PASS, detects: the probability that an equal candidate passes, and that a loss of this size is significant.",
    f"needed for {POWER:.0%}: the answers with which an evaluation of fixed size passes an equal candidate so often.",
    (
        "The variance of a pair is assumed to be 0.25, the largest possible, and 0.10 for greedy answers; stacks that "
        "mostly agree need fewer answers. PASS also requires the baseline's score to be more than twice the margin "
        "above the chance level."
    ),
)
"""What the columns of the table mean."""


def forecasts(job: Job) -> list[Forecast]:
    """One forecast per benchmark of the cell's profile, with the largest variance that a pair of answers can have.

    The number of questions comes from the seed's rows or the locked data, or else from the benchmark's `total`; a
    benchmark for which none is known is left out. Where the chip cannot hold both stacks, the baseline is complete
    from the start.
    """
    from flagrelease.verdict.group_sequential import interim_analyses
    from flagrelease.verdict.stats.design import Design
    from flagrelease.verdict.stats.planner import GUESS, forecast

    result, cell = [], job.cell
    grows = cell.own_baseline and cell.holds_both
    for name, share in cell.profile.benchmarks.items():
        benchmark = job.matrix.benchmarks[name]
        available = _questions(job, name)
        if available is None:
            continue
        repeats = share.repeats or benchmark.repeats
        design = Design(
            questions=min(share.limit or available, available),
            margin=benchmark.margin,
            repeats=repeats,
            looks=interim_analyses(benchmark.margin, repeats),
            fail_alpha=min(ALPHA / len(cell.profile.benchmarks), FAIL_ALPHA),
            reserve=RESERVE,
            alpha=level(1),
            baseline_weight=0.0 if grows else BASELINE_WEIGHT,
        )
        reference = repeats if repeats > 1 and not grows else 0
        greedy = benchmark.task == "multiple-choice" or cell.model.sampling.temperature == 0
        variance = GREEDY if greedy else GUESS
        result.append(forecast(name, design, variance=variance, power=POWER, reference=reference, losses=LOSSES))
    return result


def _questions(job: Job, name: str) -> int | None:
    benchmark, locked = job.matrix.benchmarks[name], job.lock.benchmarks.get(name)
    if generated := Generated.parse(benchmark.data):
        return generated.questions
    return locked.rows if locked is not None else benchmark.total


def passes_if_equal(job: Job, result: Forecast) -> float:
    """The probability that an identical stack passes the benchmark."""
    return result.sequential[0.0].passes if job.cell.profile.sequential else result.passes


def cell_power(job: Job, results: Sequence[Forecast]) -> float:
    """The probability that an identical stack passes all benchmarks, whose answers are independent."""
    return math.prod(passes_if_equal(job, result) for result in results)


def seconds_per_answer(ledger: Ledger, cell: str) -> float | None:
    """The time of an answer in the cell's last evaluation, all requests in flight together; None if there was none."""
    entry = ledger.last_done(cell, "accuracy")
    result = entry.result if entry is not None and isinstance(entry.result, dict) else {}
    asked, seconds = result.get("questions_asked", 0), result.get("inference_seconds", 0.0)
    return seconds / asked if asked else None


def table(jobs: Sequence[Job], pace: Mapping[str, float | None], width: int | None = None) -> str:
    """One row per benchmark: the maximum number of answers of each side; with a sequential profile, the expected
    number of the candidate's answers; the probabilities of PASS and of detecting a loss; the fixed sample size
    needed. A row for the cell, and its time by `pace`, the seconds per answer by cell."""
    rows, times = [], []
    for job in jobs:
        results = forecasts(job)
        for number, result in enumerate(results):
            expected = [f"{result.sequential[loss].pairs:,.0f}" for loss in (0.0, LOSSES[-1])]
            if not job.cell.profile.sequential:
                expected = ["–", "–"]
            margin = f"{100 * result.needed.margin:g} pt"
            label = job.cell.id if number == 0 else ""
            finds = [f"{result.finds[loss]:.0%}" for loss in LOSSES]
            passes = f"{passes_if_equal(job, result):.1%}"
            row = [label, result.benchmark, margin, f"{result.answers:,}", *expected, passes, *finds]
            rows.append([*row, f"{result.needed.pairs:,}"])
        if len(results) > 1:
            answers = [f"{sum(result.answers for result in results):,}"]
            answers += [
                f"{expected_answers(results, loss):,.0f}" if job.cell.profile.sequential else "–"
                for loss in (0.0, LOSSES[-1])
            ]
            rows.append(["", "all of them", "", *answers, f"{cell_power(job, results):.1%}", "", "", "", ""])
        if (seconds := pace.get(job.cell.id)) is not None:
            usual, longest = (spell(3600 * each) for each in hours(job, results, seconds))
            times.append(
                f"{job.cell.id}: {seconds:.2g} s per answer in its last evaluation: {usual} for the "
                f"candidate's answers if equal, at most {longest}"
            )
    heading = ["cell", "benchmark", "margin", "maximum", "expected if equal", f"if {_WORST} worse"]
    heading += ["PASS if equal", *(f"detects {100 * loss:g} pt" for loss in LOSSES), f"needed for {POWER:.0%}"]
    lines = [wrapped(line, width) for line in (*_NOTES, *times)]
    return "\n".join([figures(heading, rows, right=range(2, 11), width=width), "", *lines])


def expected_answers(results: Sequence[Forecast], loss: float) -> float:
    """The candidate's expected answers to all benchmarks in a sequential evaluation, if it has lost `loss`."""
    return sum(result.sequential[loss].pairs for result in results)


def hours(job: Job, results: Sequence[Forecast], seconds: float) -> tuple[float, float]:
    """The expected time of the candidate's answers if it is equal, and the longest, at `seconds` per answer."""
    most = sum(result.answers for result in results)
    expected = expected_answers(results, 0.0) if job.cell.profile.sequential else most
    return expected * seconds / 3600, most * seconds / 3600


def as_json(job: Job, seconds: float | None) -> dict[str, Any]:
    """The output of `plan --power --json` for one cell: an object per benchmark, the power of the cell, and its hours
    at `seconds` per answer."""
    results = forecasts(job)
    benchmarks = [
        {
            "benchmark": result.benchmark,
            "answers": result.answers,
            "margin": result.needed.margin,
            "passes_if_equal": _plain(passes_if_equal(job, result)),
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
        for result in results
    ]
    return {
        "benchmarks": benchmarks,
        "passes_if_equal": _plain(cell_power(job, results)),
        "answers": sum(result.answers for result in results),
        "expected": round(expected_answers(results, 0.0)) if job.cell.profile.sequential else None,
        "hours": None if seconds is None else [round(each, 3) for each in hours(job, results, seconds)],
    }


def _plain(chance: float) -> float:
    return round(chance, 4) if math.isfinite(chance) else 0.0
