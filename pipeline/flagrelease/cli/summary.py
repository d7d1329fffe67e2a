"""Summarise a run: a table of stages per cell, a table of cells, and the exit code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from flagrelease.cli.display import amount, shown_state, spell
from flagrelease.cli.text_table import aligned, terminal_width
from flagrelease.config.cell import Cell
from flagrelease.contract.results import ACCURACY, IMAGE, PUBLISH, SPEED
from flagrelease.contract.units import time_text
from flagrelease.errors import FlagreleaseError, Inconclusive, Interrupted
from flagrelease.releases.states import without_cell
from flagrelease.run.cell_run import CellRun
from flagrelease.run.outcome import Outcome
from flagrelease.run.plan import CellPlan
from flagrelease.store.ledger import Failure, Ledger, Spent
from flagrelease.store.workspace import Workspace
from flagrelease.verdict.types import Verdict, worst_verdict

_TOTAL = "total"
_REASON_WIDTH = 90


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """How the run of one cell ended."""

    cell: str
    """CHIP/MODEL."""
    state: str
    """released, partial, red, inconclusive, interrupted, unchanged, busy or blocked."""
    stage: str
    """The stage at which the cell stopped, or the last one that ran."""
    reason: str
    code: int
    """Exit code."""
    seconds: float
    digest: str = ""
    """The digest of the cell's image; empty if it has none."""
    outcomes: tuple[Outcome, ...] = ()
    failure: Failure | None = None
    image: str = ""
    """REPOSITORY@DIGEST; empty if the cell has no image."""
    tags: tuple[str, ...] = ()
    """REPOSITORY:TAG of the published image."""
    targets: Mapping[str, str] = field(default_factory=dict)
    """Where the release is at the targets of the matrix, by target."""
    verdict: str = ""
    """The worst verdict of the gates that ran; empty if none did."""
    folder: str = ""
    """The folder of the release or of the draft of its card; empty if there is none."""


def finished(run: CellRun, seconds: float) -> CellResult:
    """The result of a cell whose stages were run."""
    red = next((outcome for outcome in run.outcomes if outcome.red), None)
    ran = [outcome for outcome in run.outcomes if outcome.status != "skipped" or outcome.spent.seconds]
    last = red or (ran or run.outcomes)[-1]
    done = [outcome for outcome in run.outcomes if outcome.status in ("done", "reused")]
    image, publish, root = run.result(IMAGE), run.result(PUBLISH), run.session.workspace.root
    draft = run.session.workspace.drafts / run.cell.id
    drafted = red is not None and red.stage == PUBLISH.stage and draft.is_dir()
    return CellResult(
        cell=run.cell.id,
        state=_state(red, done),
        stage=last.stage,
        reason=without_cell(run.cell.id, last.reason),
        code=_code(red) if red else 0,
        seconds=seconds,
        digest=image.digest if image is not None else "",
        outcomes=tuple(run.outcomes),
        failure=red.error if red else None,
        image=image.reference if image is not None else "",
        tags=publish.tags if publish is not None else (),
        targets={one.target: one.place for one in publish.targets} if publish is not None else {},
        verdict=_worst({outcome.stage: outcome.verdict for outcome in run.outcomes}.values()),
        folder=str(root / publish.folder) if publish is not None else str(draft) if drafted else "",
    )


def _code(red: Outcome) -> int:
    return red.error.code if red.error is not None else FlagreleaseError.exit_code


def _state(red: Outcome | None, done: Sequence[Outcome]) -> str:
    if red is not None:
        return {Inconclusive.exit_code: "inconclusive", Interrupted.exit_code: "interrupted"}.get(_code(red), "red")
    return "released" if done and done[-1].stage == PUBLISH.stage else "partial"


def _worst(verdicts: Iterable[str]) -> str:
    """The worst of the verdicts that are not empty; empty if there are none."""
    given = [Verdict(verdict) for verdict in verdicts if verdict]
    return worst_verdict(given).value if given else ""


def unchanged(plan: CellPlan, ledger: Ledger, workspace: Workspace) -> CellResult:
    """The result of a cell in which every stage was up to date."""
    reused = [step for step in plan.steps if step.action == "reuse"]
    entries = {step.stage: step.entry for step in reused}
    count = f"{len(reused)} stage{'s' * (len(reused) != 1)}"
    image = IMAGE.of(ledger.last_done(plan.cell.id, IMAGE.stage)) if reused else None
    publish = PUBLISH.of(entries.get(PUBLISH.stage))
    gates = [ACCURACY.of(entries.get(ACCURACY.stage)), SPEED.of(entries.get(SPEED.stage))]
    since = time_text(max((step.entry.at for step in reused if step.entry), default=""))
    return CellResult(
        cell=plan.cell.id,
        state="unchanged",
        stage=reused[-1].stage if reused else "",
        reason=f"nothing to do: {count} unchanged since {since}" if reused else _nothing_selected(plan),
        code=0,
        seconds=0.0,
        digest=image.digest if image is not None else "",
        image=image.reference if image is not None else "",
        tags=publish.tags if publish is not None else (),
        targets={one.target: one.place for one in publish.targets} if publish is not None else {},
        verdict=_worst(gate.verdict for gate in gates if gate is not None),
        folder=str(workspace.root / publish.folder) if publish is not None else "",
    )


def _nothing_selected(plan: CellPlan) -> str:
    return "nothing was selected: " + "; ".join(f"{step.stage}: {step.reason}" for step in plan.steps)


def refused(cell: Cell, error: FlagreleaseError) -> CellResult:
    """The result of a cell that could not be started."""
    failure = Failure(kind=type(error).__name__, code=error.exit_code, what=error.what, why=error.why, hint=error.hint)
    state = "busy" if error.exit_code == 75 else "blocked"
    reason = error.why or without_cell(cell.id, error.what)
    return CellResult(
        cell=cell.id, state=state, stage="", reason=reason, code=error.exit_code, seconds=0.0, failure=failure
    )


def as_error(result: CellResult) -> FlagreleaseError:
    """The cell's failure as an error for `show_error`."""
    failure = result.failure
    if failure is None:
        return FlagreleaseError(f"{result.cell}: {result.reason}")
    where = f"{result.cell} {result.stage}".strip()
    what = failure.what if failure.what.startswith(result.cell) else f"{where}: {failure.what}"
    hint = failure.hint or f"`flagrelease explain {result.cell}` shows all details"
    return FlagreleaseError(what, why=failure.why, hint=hint, detail=failure.detail)


def text(results: Sequence[CellResult], excluded: Sequence[Cell]) -> str:
    """The tables that `run` prints at its end."""
    parts = [_stages(result) for result in results if result.outcomes]
    rows = [
        [r.cell, r.state, r.stage, spell(r.seconds) if r.seconds else "", r.digest[7:19], _short(r.reason)]
        for r in results
    ]
    rows += [[cell.id, "excluded", "", "", "", cell.excluded] for cell in excluded]
    heading = ["cell", "state", "stage", "time", "digest", "reason"]
    parts.append(aligned(heading, rows, right=[3], width=terminal_width()))
    return "\n\n".join(parts)


def _stages(result: CellResult) -> str:
    rows = []
    for outcome in result.outcomes:
        ran = outcome.spent.seconds > 0
        rows.append(
            [
                outcome.stage,
                shown_state(outcome),
                spell(outcome.spent.seconds) if ran else "",
                amount(outcome.spent.moved, "B") if outcome.spent.moved else "",
                _short(outcome.reason),
            ]
        )
    total = _sum([outcome.spent for outcome in result.outcomes])
    rows.append([_TOTAL, "", spell(result.seconds), amount(total.moved, "B") if total.moved else "", ""])
    return aligned([result.cell, "state", "time", "moved", "result"], rows, right=[2, 3], width=terminal_width())


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
                "image": result.image,
                "tags": list(result.tags),
                "targets": dict(result.targets),
                "verdict": result.verdict,
                "folder": result.folder,
                "error": None if result.failure is None else asdict(result.failure),
                "stages": [
                    {
                        "stage": o.stage,
                        "state": o.status,
                        "reason": o.reason,
                        "verdict": o.verdict,
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
