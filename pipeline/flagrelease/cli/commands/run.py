"""`flagrelease run`: release cells."""

from __future__ import annotations

import argparse

from flagrelease.cli.commands import plan as plan_verb
from flagrelease.cli.release_cells import run_cells, show
from flagrelease.cli.shared import check_rounds, options
from flagrelease.config.cell import select
from flagrelease.run.plan import choice
from flagrelease.run.project import open_project
from flagrelease.stages import STAGES


def main(arguments: argparse.Namespace) -> int:
    check_rounds(arguments)
    if arguments.dry_run:
        return plan_verb.main(arguments)
    project = open_project(options(arguments))
    cells = select(project.cells, arguments.cells, arguments.chip, arguments.model)
    wanted = choice(STAGES, arguments.only, arguments.force)
    results = run_cells(project, cells, STAGES, wanted, arguments)
    excluded = [cell for cell in cells if cell.excluded]
    return show(results, excluded, as_json=arguments.json)
