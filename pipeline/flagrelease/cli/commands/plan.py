"""`flagrelease plan`: show what would run, and why."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence

from flagrelease.cli.github_jobs import outputs
from flagrelease.cli.shared import PLAN_STATES, options
from flagrelease.cli.text_table import aligned, counts, terminal_width, wrapped
from flagrelease.config.cell import select
from flagrelease.errors import ConfigError
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
            print(power.table(jobs, pace, terminal_width()))
        return 0
    plans = [checked(plan, project) for plan in project.plan(cells, STAGES, wanted)]
    refused = all(plan.blocked for plan in plans if not plan.cell.excluded)
    if getattr(arguments, "github", False):
        print(outputs(plans))
        return 0
    if states := getattr(arguments, "state", ()):
        plans = [plan for plan in plans if plan.state in states]
    plans.sort(key=lambda plan: PLAN_STATES.index(plan.state))
    shown = [plan.cell.chip_name for plan in plans if not plan.cell.excluded]
    unknown = {name: chip.unknown for name, chip in project.matrix.chips.items() if name in shown and chip.unknown}
    if arguments.json:
        print(json.dumps({**as_json(plans), "unknown": unknown}, indent=2, ensure_ascii=False))
    else:
        print(table(plans, terminal_width()) + _not_known(unknown, terminal_width()))
    return ConfigError.exit_code if refused else 0


def table(plans: Sequence[CellPlan], width: int | None = None) -> str:
    """One row per stage of a cell that would run, one row for each other cell, and the number of cells by state."""
    if not plans:
        return "no cell in this state"
    rows = []
    for plan in plans:
        if plan.state != "run":
            rows.append([plan.cell.id, "", _ACTIONS[plan.state], _why(plan)])
            continue
        for number, step in enumerate(plan.steps):
            rows.append([plan.cell.id if number == 0 else "", step.stage, step.action, step.reason])
    count = f"{len(plans)} cell{'s' * (len(plans) != 1)}: {counts([plan.state for plan in plans], PLAN_STATES)}"
    return f"{aligned(['cell', 'stage', 'action', 'reason'], rows, width=width)}\n\n{wrapped(count, width)}"


def _not_known(unknown: Mapping[str, Mapping[str, str]], width: int | None) -> str:
    """What is not known of the chips, if anything."""
    if not unknown:
        return ""
    chips = "; ".join(f"{name}: {', '.join(facts)}" for name, facts in unknown.items())
    text = f"No source says, and nothing is compared with it: {chips} (docs/chips.md has the reasons, and --json)"
    return f"\n\n{wrapped(text, width)}"


_ACTIONS = {"blocked": "blocked", "unchanged": "reuse", "excluded": "skip"}


def _why(plan: CellPlan) -> str:
    """Why no stage of the cell would run."""
    if plan.cell.excluded:
        return f"excluded: {plan.cell.excluded}"
    if plan.blocked:
        return "; ".join(filter(None, (plan.blocked, plan.hint)))
    reused = [step for step in plan.steps if step.action == "reuse"]
    reasons = {step.reason for step in reused}
    same = reasons.pop() if len(reasons) == 1 else "nothing would run; `flagrelease explain` shows each stage"
    count = f"all {len(reused)} stages" if len(reused) > 1 else "its stage"
    return f"{count}: {same}" if reused else "none of its stages was selected"
