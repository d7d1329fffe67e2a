"""`flagrelease night`: run the whole matrix by schedule, carefully, and report it on one page."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flagrelease.cli import summary
from flagrelease.cli.night_page import page
from flagrelease.cli.release_cells import blocked_cell, run_cells, show
from flagrelease.cli.shared import check_rounds, options
from flagrelease.cli.summary import CellResult
from flagrelease.config.cell import Cell, select
from flagrelease.errors import EnvironmentFault, FlagreleaseError, Interrupted, UpstreamRefused, worst
from flagrelease.ports.clock import SystemClock
from flagrelease.redact import redact
from flagrelease.run.plan import CellPlan, Choice, running_by_chip
from flagrelease.run.preflight import checked
from flagrelease.run.project import Project, open_project
from flagrelease.stages import STAGES
from flagrelease.store.files import write_atomic

PAGE, RESULT = "summary.md", "result.json"
_NOT_OF_THE_CELL = (EnvironmentFault.exit_code, UpstreamRefused.exit_code)
"""Exit codes of failures that the chip's other cells would meet as well."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The cells of one chip that have something to run."""

    chip: str
    """The chip's name in the matrix."""
    canary: CellPlan
    """The cell that runs first."""
    others: tuple[CellPlan, ...]
    """The cells that run after it, in the order of the matrix."""


def turns(plans: Iterable[CellPlan], seconds: Callable[[str], float | None]) -> tuple[Turn, ...]:
    """The cells with something to run, by chip. The canary is the one whose last release took the least time; of cells
    that were never released, the first. `seconds` gives a cell's last time, None if it has none."""
    return tuple(_turn(chip, cells, seconds) for chip, cells in running_by_chip(plans).items())


def _turn(chip: str, plans: Sequence[CellPlan], seconds: Callable[[str], float | None]) -> Turn:
    timed = {plan.cell.id: seconds(plan.cell.id) for plan in plans}
    canary = min(plans, key=lambda plan: (timed[plan.cell.id] is None, timed[plan.cell.id] or 0.0))
    return Turn(chip=chip, canary=canary, others=tuple(plan for plan in plans if plan is not canary))


def holds_others_back(code: int) -> bool:
    """Whether a canary that ended with this exit code says that the chip's other cells would fail as well."""
    return code in _NOT_OF_THE_CELL


def main(arguments: argparse.Namespace) -> int:
    check_rounds(arguments)
    project = open_project(options(arguments))
    cells = select(project.cells, arguments.cells, arguments.chip, arguments.model)
    plans = [checked(plan, project) for plan in project.plan(cells, STAGES, Choice())]

    def release(chosen: Sequence[CellPlan]) -> list[CellResult]:
        try:
            return run_cells(project, [plan.cell for plan in chosen], STAGES, Choice(), arguments) if chosen else []
        except Interrupted:
            raise
        except FlagreleaseError as error:  # of the machine: the page says it for each cell
            return [summary.refused(plan.cell, error) for plan in chosen]

    results = [blocked_cell(plan) for plan in plans if plan.state == "blocked"]
    results += release([plan for plan in plans if plan.state == "unchanged"])
    results += _in_turns(turns(plans, lambda cell: _last_seconds(project, cell)), release)
    return _finish(project, results, [cell for cell in cells if cell.excluded], arguments)


def _in_turns(by_chip: Sequence[Turn], release: Callable[[Sequence[CellPlan]], list[CellResult]]) -> list[CellResult]:
    """Release the canaries, and then the other cells of those chips whose canary did not meet a fault of the machine,
    a registry or a hub."""
    canaries = {result.cell: result for result in release([turn.canary for turn in by_chip])}
    held = {turn.chip for turn in by_chip if holds_others_back(canaries[turn.canary.cell.id].code)}
    others = release([plan for turn in by_chip if turn.chip not in held for plan in turn.others])
    waiting = [
        _waiting(plan.cell, canaries[turn.canary.cell.id])
        for turn in by_chip
        if turn.chip in held
        for plan in turn.others
    ]
    return [*canaries.values(), *others, *waiting]


def _waiting(cell: Cell, canary: CellResult) -> CellResult:
    """The result of a cell that was not started, because the first one of its chip failed."""
    return CellResult(
        cell=cell.id,
        state="waiting",
        stage="",
        reason=f"not started: {canary.cell} failed for a reason that is not its own",
        code=canary.code,
        seconds=0.0,
    )


def _last_seconds(project: Project, cell: str) -> float | None:
    """The seconds of the last finished attempt at each stage, in sum; None if no stage was ever finished."""
    spent = [entry.spent for stage in STAGES if (entry := project.ledger.last_done(cell, stage.name)) is not None]
    return sum(cost.seconds for cost in spent if cost is not None) if spent else None


def _finish(
    project: Project, results: Sequence[CellResult], excluded: Sequence[Cell], arguments: argparse.Namespace
) -> int:
    """Write the page and the result, show them, and return the exit code."""
    into: Path = arguments.output or project.workspace.root / "night"
    into.mkdir(parents=True, exist_ok=True)
    text = redact(page(results, f"{SystemClock().now():%Y-%m-%d}"))
    document = summary.as_json(results, excluded, worst(result.code for result in results))
    write_atomic(into / PAGE, text.encode())
    write_atomic(into / RESULT, redact(json.dumps(document, indent=2, ensure_ascii=False)).encode())
    code = show(results, excluded, as_json=arguments.json)
    if not arguments.json:
        print(f"\n{into / PAGE}", flush=True)
    return code
