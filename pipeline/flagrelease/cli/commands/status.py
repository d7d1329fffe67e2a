"""`flagrelease status`: show the state of every cell."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from flagrelease.cli.shared import STATES, options, without_cell
from flagrelease.cli.text_table import aligned, counts, terminal_width
from flagrelease.config.cell import Cell, select
from flagrelease.contract.results import IMAGE, PUBLISH
from flagrelease.errors import Inconclusive
from flagrelease.run.project import Project, open_project
from flagrelease.stages import STAGES
from flagrelease.store.ledger import Entry, process_lives


@dataclass(frozen=True, kw_only=True)
class Status:
    """The state of one cell."""

    cell: str
    state: str
    """One of STATES."""
    stage: str = ""
    """The stage that failed, was interrupted or is running; else the last one that has run."""
    at: str = ""
    """Time of that stage's newest ledger entry (UTC, ISO 8601)."""
    digest: str = ""
    """The digest of the cell's image; empty if it has none."""
    reason: str = ""


def main(arguments: argparse.Namespace) -> int:
    project = open_project(options(arguments))
    cells = select(project.cells, arguments.cells, arguments.chip, arguments.model)
    statuses = [_status(project, cell) for cell in cells]
    if arguments.state:
        statuses = [status for status in statuses if status.state in arguments.state]
    statuses.sort(key=lambda status: STATES.index(status.state))
    if arguments.json:
        print(json.dumps({"cells": [asdict(s) for s in statuses]}, indent=2, ensure_ascii=False))
    else:
        rows = [[s.cell, s.state, s.stage, s.at[:16].replace("T", " "), s.digest[7:19], s.reason] for s in statuses]
        heading = ["cell", "state", "stage", "last attempt", "digest", "reason"]
        if rows:
            print(aligned(heading, rows, width=terminal_width(), cut=True) + "\n")
        cells_text = f"{len(statuses)} cell{'s' * (len(statuses) != 1)}"
        print(f"{cells_text}: {counts([s.state for s in statuses], STATES)}" if statuses else "no cell in this state")
        if project.ledger.damaged:
            lines = "1 damaged line" if project.ledger.damaged == 1 else f"{project.ledger.damaged} damaged lines"
            print(f"\nignored: {lines} of {project.ledger.path}")
    return 0


def _status(project: Project, cell: Cell) -> Status:
    """The state of a cell; that of a cell that has never run and would be refused is `blocked`."""
    shown = status(cell, project.latest(cell, STAGES))
    if shown.state != "new":
        return shown
    from flagrelease.run.preflight import refusal  # imports what checks data, which other cells do not need

    refused = refusal(cell, project)
    return shown if refused is None else replace(shown, state="blocked", reason=refused.blocked)


def status(cell: Cell, latest: Mapping[str, Entry]) -> Status:
    """A cell's state from the newest entry of each of its stages. Pure, except for checking whether a run is alive."""
    if cell.excluded:
        return Status(cell=cell.id, state="excluded", reason=cell.excluded)
    if not latest:
        return Status(cell=cell.id, state="new", reason="never run")
    image = IMAGE.of(latest.get(IMAGE.stage))
    digest = "" if image is None else image.digest
    reached = [stage.name for stage in STAGES if stage.name in latest][-1]
    for stage in STAGES:
        entry = latest.get(stage.name)
        if entry is None or entry.state == "done":
            continue
        state = {"failed": "red", "interrupted": "interrupted", "running": "interrupted"}[entry.state]
        reason = without_cell(cell.id, entry.error.what) if entry.error else "stopped before it finished; run it again"
        if entry.error is not None and entry.error.code == Inconclusive.exit_code:
            state = "inconclusive"
        if entry.state == "running" and process_lives(entry.process):
            state, reason = "running", f"run {entry.run}"
        return Status(cell=cell.id, state=state, stage=stage.name, at=entry.at, digest=digest, reason=reason)
    published = PUBLISH.of(latest.get(PUBLISH.stage))
    state = "released" if published is not None and published.tags else "partial"
    return Status(cell=cell.id, state=state, stage=reached, at=latest[reached].at, digest=digest)
