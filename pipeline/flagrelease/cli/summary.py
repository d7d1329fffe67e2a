"""Summarise a run: a table of stages per cell, a table of cells, and the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flagrelease.cli.display import MARKS, amount, spell
from flagrelease.cli.text_table import aligned
from flagrelease.config.cell import Cell
from flagrelease.contract.results import IMAGE, PUBLISH
from flagrelease.errors import FlagreleaseError
from flagrelease.run.cell_run import CellRun
from flagrelease.run.outcome import Outcome
from flagrelease.run.plan import CellPlan
from flagrelease.store.ledger import Failure, Ledger, Spent

_TOTAL = "total"
_REASON_WIDTH = 90


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """How the run of one cell ended."""

    cell: str
    """CHIP/MODEL."""
    state: str
    """released, partial, red, unchanged, busy or blocked."""
    stage: str
    """The stage at which the cell stopped, or its last one."""
    reason: str
    code: int
    """Exit code."""
    seconds: float
    digest: str = ""
    """The digest of the cell's image; empty if it has none."""
    outcomes: tuple[Outcome, ...] = ()
    failure: Failure | None = None


def finished(run: CellRun, seconds: float) -> CellResult:
    """The result of a cell whose stages were run."""
    red = next((outcome for outcome in run.outcomes if outcome.red), None)
    last = red or run.outcomes[-1]
    done = [outcome for outcome in run.outcomes if outcome.status in ("done", "reused")]
    return CellResult(
        cell=run.cell.id,
        state="released" if red is None and done and done[-1].stage == PUBLISH.stage else "red" if red else "partial",
        stage=last.stage,
        reason=last.reason,
        code=red.error.code if red and red.error else 1 if red else 0,
        seconds=seconds,
        digest=run.image_digest(),
        outcomes=tuple(run.outcomes),
        failure=red.error if red else None,
    )


def unchanged(plan: CellPlan, ledger: Ledger) -> CellResult:
    """The result of a cell in which every stage was up to date."""
    reused = [step for step in plan.steps if step.action == "reuse"]
    count = f"{len(reused)} stage{'s' * (len(reused) != 1)}"
    image = IMAGE.of(ledger.last_done(plan.cell.id, IMAGE.stage))
    since = max((step.entry.at for step in reused if step.entry), default="")[:16].replace("T", " ")
    return CellResult(
        cell=plan.cell.id,
        state="unchanged",
        stage=reused[-1].stage if reused else "",
        reason=f"nothing to do: {count} unchanged since {since}" if reused else "nothing was selected",
        code=0,
        seconds=0.0,
        digest=image.digest if image is not None and reused else "",
    )


def refused(cell: Cell, error: FlagreleaseError) -> CellResult:
    """The result of a cell that could not be started."""
    failure = Failure(kind=type(error).__name__, code=error.exit_code, what=error.what, why=error.why, hint=error.hint)
    state = "busy" if error.exit_code == 75 else "blocked"
    return CellResult(
        cell=cell.id, state=state, stage="", reason=error.why or error.what, code=error.exit_code, seconds=0.0,
        failure=failure,
    )  # fmt: skip


def as_error(result: CellResult) -> FlagreleaseError:
    """The cell's failure as an error for `show_error`."""
    failure = result.failure
    if failure is None:
        return FlagreleaseError(f"{result.cell}: {result.reason}")
    where = f"{result.cell} {result.stage}".strip()
    hint = failure.hint or f"`flagrelease explain {result.cell}` shows all details"
    return FlagreleaseError(f"{where}: {failure.what}", why=failure.why, hint=hint, detail=failure.detail)


def text(results: Sequence[CellResult], excluded: Sequence[Cell]) -> str:
    """The tables that `run` prints at its end."""
    parts = [_stages(result) for result in results if result.outcomes]
    rows = [
        [r.cell, r.state, r.stage, spell(r.seconds) if r.seconds else "", r.digest[:19], _short(r.reason)]
        for r in results
    ]
    rows += [[cell.id, "excluded", "", "", "", cell.excluded] for cell in excluded]
    parts.append(aligned(["cell", "state", "stage", "time", "digest", "reason"], rows, right=[3]))
    return "\n\n".join(parts)


def _stages(result: CellResult) -> str:
    rows = []
    for outcome in result.outcomes:
        ran = outcome.spent.seconds > 0
        rows.append(
            [
                outcome.stage,
                f"{MARKS[outcome.status]} {outcome.status}",
                spell(outcome.spent.seconds) if ran else "",
                amount(outcome.spent.moved, "B") if outcome.spent.moved else "",
                _short(outcome.reason),
            ]
        )
    total = _sum([outcome.spent for outcome in result.outcomes])
    rows.append([_TOTAL, "", spell(result.seconds), amount(total.moved, "B") if total.moved else "", ""])
    return aligned([result.cell, "state", "time", "moved", "result"], rows, right=[2, 3])


def _short(reason: str) -> str:
    """The reason, cut to fit a table. Errors are printed in full below it, and `explain` shows everything."""
    return reason if len(reason) <= _REASON_WIDTH else reason[: _REASON_WIDTH - 1].rstrip() + "…"


def _sum(spent: Sequence[Spent]) -> Spent:
    return Spent(
        seconds=sum(cost.seconds for cost in spent),
        outside=sum(cost.outside for cost in spent),
        moved=sum(cost.moved for cost in spent),
    )


def as_json(results: Sequence[CellResult], excluded: Sequence[Cell], code: int) -> dict[str, Any]:
    """The output of `run --json`."""
    return {
        "exit_code": code,
        "cells": [
            {
                "cell": result.cell,
                "state": result.state,
                "stage": result.stage,
                "reason": result.reason,
                "exit_code": result.code,
                "seconds": round(result.seconds, 3),
                "digest": result.digest,
                "stages": [
                    {
                        "stage": o.stage,
                        "state": o.status,
                        "reason": o.reason,
                        "seconds": round(o.spent.seconds, 3),
                        "outside_seconds": round(o.spent.outside, 3),
                        "bytes_moved": o.spent.moved,
                    }
                    for o in result.outcomes
                ],
            }
            for result in results
        ],
        "excluded": [{"cell": cell.id, "reason": cell.excluded} for cell in excluded],
    }
