"""Each verb imports only what it uses: importing a library or the work of the stages takes longer than most verbs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CELL = "cpu/smollm2-135m"

HEAVY = frozenset(
    {"asyncio", "docker", "httpx", "jinja2", "matplotlib", "modelscope", "modelscope_hub", "msgspec", "numpy"}
    | {"openai", "prefect", "requests", "rich", "scipy", "urllib3", "yaml"}
)
"""Libraries that take more than about 10 ms to import."""

WORK = frozenset(
    {f"flagrelease.stages.{path.parent.name}.run" for path in (ROOT / "pipeline/flagrelease/stages").glob("*/run.py")}
    | {f"flagrelease.evaluation.{name}" for name in ("baselines", "grading", "harnesses.choose", "harnesses.own")}
    | {f"flagrelease.ports.{name}" for name in ("command", "docker.engine", "hub", "processes.runner", "registry")}
    | {f"flagrelease.{name}" for name in ("cli.power", "stages.card.lint", "stages.card.record", "verdict.samples")}
)
"""Our modules that only a running stage needs."""

MATRIX = frozenset({"yaml", "msgspec"})
"""Libraries that reading matrix.yaml and matrix.lock needs; importing the stages needs no others."""
EVALUATION = MATRIX | WORK | {"asyncio"}
"""What importing the evaluation and the ports needs."""

ALLOWED = {
    "--help": frozenset[str](),
    "plan --help": frozenset[str](),
    "lock --help": frozenset[str](),
    "explain --help": frozenset[str](),
    "plan": MATRIX,
    "plan --json": MATRIX,
    f"run {CELL} --dry-run": EVALUATION,
    "status": MATRIX,
    "status --state red": MATRIX,
    f"explain {CELL}": MATRIX,
    f"history {CELL}": MATRIX,
    "completion bash": MATRIX,
    "completion cells": MATRIX,
    "baseline list": EVALUATION,
    f"diff {ROOT}/docs/example {ROOT}/docs/example-h100": MATRIX,
    "index --output site": MATRIX | {"jinja2"},
    "init --matrix new.yaml": MATRIX,
    "plan --power": MATRIX | WORK | {"numpy", "scipy"},
}

PROGRAM = """
import contextlib, io, json, resource, sys
heavy, argv = json.loads(sys.argv[1])
from flagrelease.cli.app import main
with contextlib.redirect_stdout(io.StringIO()):
    try:
        code = main(argv)
    except SystemExit as end:
        code = end.code
used, found = resource.getrusage(resource.RUSAGE_SELF), sorted(set(heavy) & set(sys.modules))
print(json.dumps({"code": code, "seconds": used.ru_utime + used.ru_stime, "found": found}))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with a locked cell and no history."""
    (tmp_path / "matrix.yaml").write_bytes((ROOT / "templates/matrix.yaml").read_bytes())
    (tmp_path / "matrix.lock").write_bytes((ROOT / "matrix.lock").read_bytes())
    return tmp_path


@pytest.mark.parametrize("command", ALLOWED)
def test_a_verb_imports_what_it_uses(command: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([sorted(HEAVY | WORK), command.split()])],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "pipeline")},
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout)
    assert not report["code"], done.stderr
    print(f"flagrelease {command}: {report['seconds']:.2f} s of processor time")
    assert set(report["found"]) <= ALLOWED[command]
