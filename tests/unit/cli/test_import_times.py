"""What each verb imports: only the libraries that it uses, since a library costs more than most verbs do."""

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
"""Everything that takes longer to import than about a hundredth of a second."""

MATRIX = frozenset({"yaml", "msgspec"})
"""What reading matrix.yaml and matrix.lock takes."""
STAGES = MATRIX | {"asyncio"}
"""What the list of stages takes; asyncio is the evaluation's own client."""

ALLOWED = {
    "--help": frozenset[str](),
    "plan --help": frozenset[str](),
    "lock --help": frozenset[str](),
    "explain --help": frozenset[str](),
    "plan": STAGES,
    "plan --json": STAGES,
    f"run {CELL} --dry-run": STAGES,
    "status": STAGES,
    f"explain {CELL}": STAGES,
    "baseline list": STAGES,
    "init --matrix new.yaml": STAGES,
    "plan --power": STAGES | {"numpy", "scipy"},
}

PROGRAM = """
import contextlib, io, json, resource, sys
heavy, words = json.loads(sys.argv[1])
from flagrelease.cli.app import main
with contextlib.redirect_stdout(io.StringIO()):
    try:
        code = main(words)
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


@pytest.mark.parametrize("words", ALLOWED)
def test_a_verb_imports_what_it_uses(words: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([sorted(HEAVY), words.split()])],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "pipeline")},
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(done.stdout)
    assert not said["code"], done.stderr
    print(f"flagrelease {words}: {said['seconds']:.2f} s of processor time")
    assert set(said["found"]) <= ALLOWED[words]
