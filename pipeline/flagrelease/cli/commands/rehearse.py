"""`flagrelease rehearse`: the dress rehearsal of cells on a machine without their chips."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace

from flagrelease.cli.display import PlainBoard, board, spell
from flagrelease.cli.shared import options
from flagrelease.cli.text_table import aligned, terminal_width
from flagrelease.config.cell import select
from flagrelease.errors import worst
from flagrelease.rehearsal.rehearse import PARTS, rehearse
from flagrelease.rehearsal.report import Report
from flagrelease.run.project import impatient_registry, open_project, real_ports


def main(arguments: argparse.Namespace) -> int:
    project = open_project(options(arguments))
    chosen = select(project.cells, arguments.cells, arguments.chip, arguments.model)
    ports = replace(real_ports(project.workspace, project.registry), registry=impatient_registry(project.registry))
    reports = []
    for cell in [cell for cell in chosen if not cell.excluded]:
        shown = PlainBoard() if arguments.json else board([cell.id], PARTS)
        with shown:
            reports.append(rehearse(project, cell, ports, shown, keep=arguments.keep))
        if not arguments.json:
            print(text(reports[-1], terminal_width()), flush=True)
    code = worst(report.code for report in reports)
    if arguments.json:
        document = {"exit_code": code, "cells": [report.as_json() for report in reports]}
        print(json.dumps(document, indent=2, ensure_ascii=False))
    return code


def text(report: Report, width: int | None = None) -> str:
    """The report as tables, one for each kind of row that there is."""
    parts: list[str] = []
    done = [[each.part, each.what, spell(each.seconds)] for each in report.exercised]
    _table(parts, "exercised", ["part", "what", "time"], done, width)
    left_out = [[each.part, each.what, each.why] for each in report.left_out]
    _table(parts, "left out", ["part", "what the release does", "why not here"], left_out, width)
    for here, title in ((False, "would fail on the chip"), (True, "failed here")):
        rows = [[f.part, f.why, f.hint] for f in report.failed if f.here is here]
        _table(parts, title, ["part", "because", "what to do"], rows, width)
    ended = f"{len(report.failed)} failed" if report.failed else "nothing failed"
    parts.append(f"{report.cell}: {ended} in {spell(report.seconds)}; card and logs: {report.folder}")
    return "\n\n".join(parts)


def _table(
    parts: list[str], title: str, heading: Sequence[str], rows: Sequence[Sequence[str]], width: int | None
) -> None:
    if rows:
        parts.append(f"{title}\n{aligned(list(heading), [list(row) for row in rows], width=width)}")
