"""`flagrelease plan`: show what would run, and why."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from flagrelease.cli.shared import options
from flagrelease.cli.text_table import aligned
from flagrelease.config.cell import select
from flagrelease.run.plan import CellPlan, as_json, choice
from flagrelease.run.preflight import checked
from flagrelease.run.project import open_project
from flagrelease.stages import STAGES


def main(arguments: argparse.Namespace) -> int:
    project = open_project(options(arguments))
    cells = select(project.cells, arguments.cells, arguments.chip, arguments.model)
    wanted = choice(STAGES, arguments.only, arguments.force)
    if getattr(arguments, "power", False):
        from flagrelease.cli import power  # needs the evaluation and scipy

        jobs = [project.job(cell) for cell in cells if not cell.excluded]
        pace = {job.cell.id: power.seconds_per_answer(project.ledger, job.cell.id) for job in jobs}
        if arguments.json:
            output = {"cells": [{"cell": job.cell.id, **power.as_json(job, pace[job.cell.id])} for job in jobs]}
            print(json.dumps(output, indent=2, ensure_ascii=False))
        else:
            print(power.table(jobs, pace))
        return 0
    plans = [checked(plan, project) for plan in project.plan(cells, STAGES, wanted)]
    print(json.dumps(as_json(plans), indent=2, ensure_ascii=False) if arguments.json else table(plans))
    return 0


def table(plans: Sequence[CellPlan]) -> str:
    """One row per stage; a single row for a cell that is excluded or blocked."""
    rows = []
    for plan in plans:
        if plan.cell.excluded:
            rows.append([plan.cell.id, "", "skip", f"excluded: {plan.cell.excluded}"])
            continue
        if plan.blocked:
            rows.append([plan.cell.id, "", "blocked", "; ".join(filter(None, (plan.blocked, plan.hint)))])
            continue
        for number, step in enumerate(plan.steps):
            rows.append([plan.cell.id if number == 0 else "", step.stage, step.action, step.reason])
    return aligned(["cell", "stage", "action", "reason"], rows)
