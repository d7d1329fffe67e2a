"""`flagrelease status`: show the state of every cell."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace

from flagrelease.cli.shared import options
from flagrelease.cli.text_table import aligned, counts, terminal_width, wrapped
from flagrelease.config.cell import Cell, select
from flagrelease.contract.units import minute
from flagrelease.releases.states import STATES
from flagrelease.run.cell_state import Status, status
from flagrelease.run.project import Project, open_project
from flagrelease.stages import STAGES


def main(arguments: argparse.Namespace) -> int:
    project = open_project(options(arguments))
    cells = select(project.cells, arguments.cells, arguments.chip, arguments.model, only_excluded=True)
    statuses = [current(project, cell) for cell in cells]
    if arguments.state:
        statuses = [status for status in statuses if status.state in arguments.state]
    statuses.sort(key=lambda status: STATES.index(status.state))
    if arguments.json:
        print(json.dumps({"cells": [asdict(s) for s in statuses]}, indent=2, ensure_ascii=False))
    else:
        rows = [[s.cell, s.state, s.stage, minute(s.at), s.digest[7:19], s.reason] for s in statuses]
        heading = ["cell", "state", "stage", "last attempt, UTC", "digest", "reason"]
        if rows:
            print(aligned(heading, rows, width=terminal_width(), cut=True) + "\n")
        cells_text = f"{len(statuses)} cell{'s' * (len(statuses) != 1)}"
        total = f"{cells_text}: {counts([s.state for s in statuses], STATES)}" if statuses else "no cell in this state"
        print(wrapped(total, terminal_width()))
        if project.ledger.damaged:
            lines = "1 damaged line" if project.ledger.damaged == 1 else f"{project.ledger.damaged} damaged lines"
            print(f"\nignored: {lines} of {project.ledger.path}")
    return 0


def current(project: Project, cell: Cell) -> Status:
    """The state of a cell; that of a cell that has never run and would be refused is `blocked`."""
    shown = status(
        cell.id,
        project.latest(cell, STAGES),
        excluded=cell.excluded,
        yanks=project.yanks(cell.id),
        rot=project.rot(cell.id),
    )
    if shown.state != "new":
        return shown
    from flagrelease.run.preflight import refusal  # imports what checks data, which other cells do not need

    refused = refusal(cell, project)
    return shown if refused is None else replace(shown, state="blocked", reason=refused.blocked, hint=refused.hint)
