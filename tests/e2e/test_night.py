"""The workflow of the nightly release, with the shell of its steps as it is written."""

import json
import re
from pathlib import Path

import pytest

from support.nights import night
from support.project import CELL, project

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.timeout(1500)]


def test_a_blocked_cell_makes_the_night_red_and_starts_nothing(tmp_path: Path) -> None:
    user = project(tmp_path)
    (tmp_path / "matrix.lock").unlink()
    plan, blocked = night(user)
    assert (plan.job, plan.code) == ("plan", 0), plan.printed
    assert "is not locked" in plan.summary
    assert (blocked.job, blocked.code) == ("blocked", 2)
    assert re.match(r"::error::\d+ cells are blocked; the summary", blocked.printed)


@pytest.mark.slow  # a whole release
def test_a_night_releases_what_is_new_and_the_next_one_has_nothing_to_do(
    tmp_path: Path, base: str, own_registry: str
) -> None:
    user = project(tmp_path, f"{own_registry}/night")
    jobs = night(user)
    assert [(job.job, job.code) for job in jobs] == [("plan", 0), ("release", 0), ("blocked", 2)], jobs[1].printed
    release = jobs[1]
    assert release.matrix == {"chip": "cpu", "runs_on": ["ubuntu-24.04"], "cells": CELL}
    assert release.actions == ("actions/checkout", "actions/upload-artifact")
    assert "1 released" in release.summary.splitlines()[0]
    (cell,) = json.loads((tmp_path / "night/result.json").read_text())["cells"]
    assert (cell["cell"], cell["state"], cell["verdict"]) == (CELL, "released", "PASS")
    assert [job.job for job in night(user)] == ["plan", "blocked"]
