"""`flagrelease run`: release cells."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from flagrelease.cli import summary
from flagrelease.cli.commands import plan as plan_verb
from flagrelease.cli.release_cells import run_cells
from flagrelease.cli.shared import check_rounds, options, show_error
from flagrelease.cli.summary import CellResult
from flagrelease.config.cell import Cell, select
from flagrelease.errors import worst
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
    return _finish(results, excluded, arguments.json)


def _finish(results: Sequence[CellResult], excluded: Sequence[Cell], as_json: bool) -> int:
    code = worst(result.code for result in results)
    if as_json:
        print(json.dumps(summary.as_json(results, excluded, code), indent=2, ensure_ascii=False))
    else:
        print(summary.text(results, excluded))
        for result in results:
            if result.failure is not None and result.code:
                show_error(summary.as_error(result))
    sys.stdout.flush()
    return code
