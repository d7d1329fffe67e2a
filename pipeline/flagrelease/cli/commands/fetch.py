"""`flagrelease fetch`: what cells take from the network, for a chip's host that reaches none."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import msgspec

from flagrelease.cli.release_cells import through
from flagrelease.cli.shared import options, show_error
from flagrelease.cli.summary import CellResult, as_error
from flagrelease.config.cell import select
from flagrelease.contract import results
from flagrelease.errors import worst
from flagrelease.run.plan import Choice
from flagrelease.run.project import Project, open_project
from flagrelease.stages import fetch


def main(arguments: argparse.Namespace) -> int:
    # What runs elsewhere asks nothing of this machine's Docker.
    project = open_project(replace(options(arguments), runner="process"))
    cells = select(project.cells, arguments.cells, arguments.chip, arguments.model)
    arguments.rounds, arguments.engine = 0, "inline"
    # What is there is verified, and only what is missing moved: so it always runs.
    ended = through(project, cells, (fetch.STAGE,), Choice(force=frozenset({fetch.STAGE.name})), arguments)
    found = {one.cell: _found(project, one) for one in ended}
    code = worst(one.code for one in ended)
    if arguments.json:
        told = [{"cell": name, **msgspec.to_builtins(made)} for name, made in found.items() if made is not None]
        print(json.dumps({"exit_code": code, "workspace": str(project.workspace.root), "cells": told}, indent=2))
        return code
    print(_text(project.workspace.root, found))
    for one in ended:
        if one.code:
            show_error(as_error(one))
    return code


def _found(project: Project, ended: CellResult) -> results.Fetched | None:
    entry = None if ended.code else project.ledger.last(ended.cell, fetch.STAGE.name)
    return None if entry is None else results.FETCHED.decode(entry.result)


def _text(root: Path, found: dict[str, results.Fetched | None]) -> str:
    """A line a folder, and what to do with them."""
    lines = [f"{name}: {made.bytes / 1e6:.1f} MB" if made else f"{name}: not fetched" for name, made in found.items()]
    folders = sorted({folder for made in found.values() if made for folder in made.folders})
    lines += [f"  {folder}" for folder in folders]
    if folders:
        lines.append(f"copy these from {root} into the workspace of the other machine (tar keeps their times, by which")
        lines.append("they are known), and run there with FLAGRELEASE_OFFLINE=1")
    own = sorted({name for made in found.values() if made for name in made.own})
    if own:
        lines.append(f"the data of {', '.join(own)} is yours: copy the folder of --data-dir as well")
    return "\n".join(lines)
