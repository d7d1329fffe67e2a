"""`flagrelease status`: show the state of every cell."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from flagrelease.cli.shared import options
from flagrelease.cli.text_table import aligned
from flagrelease.config.cell import Cell, select
from flagrelease.contract.results import IMAGE, PUBLISH
from flagrelease.run.project import open_project
from flagrelease.stages import STAGES
from flagrelease.store.ledger import Entry, process_lives


@dataclass(frozen=True, kw_only=True)
class Status:
    """The state of one cell."""

    cell: str
    state: str
    """excluded, new, red, interrupted, running, partial or released."""
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
    statuses = [status(cell, project.latest(cell, STAGES)) for cell in cells]
    if arguments.json:
        print(json.dumps({"cells": [asdict(s) for s in statuses]}, indent=2, ensure_ascii=False))
    else:
        rows = [[s.cell, s.state, s.stage, s.at[:16].replace("T", " "), s.digest[:19], s.reason] for s in statuses]
        print(aligned(["cell", "state", "stage", "last attempt", "digest", "reason"], rows))
        if project.ledger.damaged:
            lines = "1 damaged line" if project.ledger.damaged == 1 else f"{project.ledger.damaged} damaged lines"
            print(f"\nignored: {lines} of {project.ledger.path}")
    return 0


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
        reason = entry.error.what if entry.error else "stopped before it finished; run it again"
        if entry.state == "running" and process_lives(entry.process):
            state, reason = "running", f"run {entry.run}"
        return Status(cell=cell.id, state=state, stage=stage.name, at=entry.at, digest=digest, reason=reason)
    published = PUBLISH.of(latest.get(PUBLISH.stage))
    state = "released" if published is not None and published.tags else "partial"
    return Status(cell=cell.id, state=state, stage=reached, at=latest[reached].at, digest=digest)
