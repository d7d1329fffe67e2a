"""One job of a workflow for each chip that has something to run."""

from __future__ import annotations

import json

from flagrelease.cli.github_jobs import outputs
from flagrelease.config import matrix as matrices
from flagrelease.config.cell import expand
from flagrelease.run.plan import CellPlan, Step
from support.project import SOURCE

CELLS = {cell.id: cell for cell in expand(matrices.load(SOURCE / "matrix.yaml"))}


def planned(name: str, action: str = "run", blocked: str = "") -> CellPlan:
    step = Step(stage="weights", action=action, reason="")  # type: ignore[arg-type]
    return CellPlan(cell=CELLS[name], steps=(step,), blocked=blocked)


def test_only_chips_with_work_get_a_job_on_the_runner_that_the_matrix_names() -> None:
    plans = [
        planned("cpu/smollm2-135m"),
        planned("nvidia-h100/smollm2-135m"),
        planned("nvidia-h100/qwen3-8b"),
        planned("metax/qwen3-8b", blocked="not locked"),
    ]
    lines = dict(line.split("=", 1) for line in outputs(plans).splitlines())
    assert json.loads(lines["chips"])["include"] == [
        {"chip": "cpu", "runs_on": ["ubuntu-24.04"], "cells": "cpu/smollm2-135m"},
        {
            "chip": "nvidia-h100",
            "runs_on": ["self-hosted", "nvidia-h100"],
            "cells": "nvidia-h100/smollm2-135m nvidia-h100/qwen3-8b",
        },
    ]
    assert (lines["jobs"], lines["blocked"]) == ("2", "1")


def test_without_changes_there_is_no_job() -> None:
    lines = outputs([planned("cpu/smollm2-135m", action="reuse")]).splitlines()
    assert lines == ['chips={"include":[]}', "jobs=0", "blocked=0"]
