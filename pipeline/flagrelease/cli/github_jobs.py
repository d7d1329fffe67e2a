"""The plan as outputs of a GitHub Actions step, from which a workflow makes one job for each chip."""

from __future__ import annotations

import json
from collections.abc import Sequence

from flagrelease.run.plan import CellPlan, running_by_chip


def outputs(plans: Sequence[CellPlan]) -> str:
    """Lines for $GITHUB_OUTPUT.

    `chips` is a job matrix with one entry for each chip that has something to run: `chip`, `runs_on` (the labels of its
    runner) and `cells` (their names, separated by blanks). `jobs` is their number; `blocked` is the number of cells
    that cannot run as they are.
    """
    jobs = [
        {
            "chip": chip,
            "runs_on": list(found[0].cell.chip.runs_on) or ["self-hosted", chip],
            "cells": " ".join(plan.cell.id for plan in found),
        }
        for chip, found in running_by_chip(plans).items()
    ]
    chips = json.dumps({"include": jobs}, separators=(",", ":"))
    return f"chips={chips}\njobs={len(jobs)}\nblocked={sum(plan.state == 'blocked' for plan in plans)}"
