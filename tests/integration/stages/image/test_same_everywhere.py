"""Two machines, as far as one can stand for both: two fresh workspaces, registries and users' settings, two days."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flagrelease.ports.docker.engine import Engine
from flagrelease.ports.registry import OciRegistry

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[4]
PROGRAM = """
import json, os, sys, time
os.umask(int(sys.argv[3], 8))
days, now = int(sys.argv[4]), time.time
time.time = lambda: now() + days * 86400
from pathlib import Path
from support import served_cell as given
from flagrelease.stages.image import stage as image

made = image.run(given.job(given.cell(), sys.argv[2]), given.context(Path(sys.argv[1])))
print(json.dumps([made.repository, made.digest, made.image_id, made.size]))
"""


def assembled(root: Path, registry: str, umask: str, days: int, **env: str) -> list[object]:
    """Repository, digest, id and size of the image that a process in a fresh workspace makes."""
    given = {**os.environ, "PYTHONPATH": f"{ROOT}/pipeline:{ROOT}/tests:{os.environ.get('PYTHONPATH', '')}", **env}
    argv = [sys.executable, "-c", PROGRAM, str(root), registry, umask, str(days)]
    done = subprocess.run(argv, env=given, capture_output=True, text=True, check=False, cwd=root.parent)
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow  # gathers, compiles and compresses all packages twice
def test_two_machines_on_two_days_make_one_digest(
    tmp_path: Path, engine: Engine, base: str, own_registry: str, empty_registry: str
) -> None:
    assert engine.image(base) is not None
    here = assembled(tmp_path / "here", f"{own_registry}/here", "022", 0, TZ="UTC", LC_ALL="C.UTF-8", USER="one")
    (tmp_path / "other home").mkdir()
    elsewhere = {"TZ": "Asia/Shanghai", "LC_ALL": "C", "USER": "two", "HOME": str(tmp_path / "other home")}
    there = assembled(tmp_path / "there", f"{empty_registry}/there", "077", 2, PYTHONHASHSEED="7", **elsewhere)
    assert here[1:] == there[1:]
    layers = [json.loads(OciRegistry().manifest(str(one[0]), str(one[1])).body)["layers"] for one in (here, there)]
    assert layers[0] == layers[1]
