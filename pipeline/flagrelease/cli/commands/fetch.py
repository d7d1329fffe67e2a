"""`flagrelease fetch`: download everything that cells need, for a host without network access."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import msgspec

from flagrelease.cli.release_cells import run_cells
from flagrelease.cli.shared import options, show_error
from flagrelease.cli.summary import CellResult, as_error
from flagrelease.config.cell import select
from flagrelease.contract import results
from flagrelease.errors import worst
from flagrelease.run.plan import Choice
from flagrelease.run.project import Project, open_project
from flagrelease.stages import fetch


def main(arguments: argparse.Namespace) -> int:
    # The release runs on another machine, so this one needs no Docker.
    project = open_project(replace(options(arguments), runner="process"))
    cells = select(project.cells, arguments.cells, arguments.chip, arguments.model)
    arguments.rounds, arguments.engine = 0, "inline"
    # Forced: the stage verifies the files that exist and downloads only the missing ones.
    cell_results = run_cells(project, cells, (fetch.STAGE,), Choice(force=frozenset({fetch.STAGE.name})), arguments)
    fetched = {result.cell: _fetched(project, result) for result in cell_results}
    code = worst(result.code for result in cell_results)
    if arguments.json:
        rows = [{"cell": name, **msgspec.to_builtins(made)} for name, made in fetched.items() if made is not None]
        print(json.dumps({"exit_code": code, "workspace": str(project.workspace.root), "cells": rows}, indent=2))
        return code
    print(_text(project.workspace.root, fetched))
    for result in cell_results:
        if result.code:
            show_error(as_error(result))
    return code


def _fetched(project: Project, result: CellResult) -> results.Fetched | None:
    entry = None if result.code else project.ledger.last(result.cell, fetch.STAGE.name)
    return None if entry is None else results.FETCHED.decode(entry.result)


def _text(root: Path, fetched: dict[str, results.Fetched | None]) -> str:
    """One line per cell and per folder, and how to copy the folders to the other machine."""
    lines = [f"{name}: {made.bytes / 1e6:.1f} MB" if made else f"{name}: not fetched" for name, made in fetched.items()]
    folders = sorted({folder for made in fetched.values() if made for folder in made.folders})
    lines += [f"  {folder}" for folder in folders]
    if folders:
        lines.append(f"copy these from {root} into the workspace of the other machine with tar, which preserves their")
        lines.append("modification times (files are identified by them), and run there with FLAGRELEASE_OFFLINE=1")
    own = sorted({name for made in fetched.values() if made for name in made.own})
    if own:
        lines.append(f"{', '.join(own)} use your own data: copy the folder of --data-dir as well")
    return "\n".join(lines)
