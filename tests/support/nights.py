"""Run the workflow of the nightly release in a user's project."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from support import workflow
from support.project import SOURCE, UserProject

WORKFLOW = SOURCE / ".github/workflows/release.yml"


def night(user: UserProject, **env: str) -> list[workflow.Ran]:
    """The project is the checkout; its environment is the one of the tests, which `scripts/machine venv` finds made."""
    for name, place in ((".venv/bin", Path(sys.executable).parent), ("scripts", SOURCE / "scripts")):
        (user.root / name).parent.mkdir(exist_ok=True)
        if not (user.root / name).exists():
            (user.root / name).symlink_to(place)
    given = {"FLAGRELEASE_ENGINE": "inline", **env}
    contexts = {"vars": {"FLAGRELEASE_REGISTRY": user.registry}, "inputs": {"cells": ""}}
    return workflow.run(WORKFLOW, user.root, {**os.environ, **given}, **contexts)
