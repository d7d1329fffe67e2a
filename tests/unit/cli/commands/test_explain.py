"""`flagrelease explain` of a cell with operator attribution: the excluded operators and every round."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

import support.finished_cell as given
from flagrelease.cli import app
from flagrelease.contract.results import Attribution, Culprit
from flagrelease.contract.stage import keys
from flagrelease.run.project import Options, open_project
from flagrelease.stages import REMEDY, STAGES
from flagrelease.store.ledger import KEEP, Entry
from flagrelease.store.parts import Keep

ROOT = Path(__file__).parents[4]
CELL = "nvidia-h100/smollm2-135m"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Two rounds that each found an operator and one that found none, as `run` records them."""
    project = open_project(Options(matrix=ROOT / "matrix.yaml", workspace=tmp_path))
    cell = next(cell for cell in project.cells if cell.id == CELL)

    def append(stage: str, result: Any) -> None:
        key = keys(project.job(cell), (*STAGES, REMEDY.stage))[stage].key
        entry = Entry(at="2026", run="r", cell=CELL, stage=stage, state="done", key=key, process="1@b", result=result)
        project.ledger.append(replace(entry, result=msgspec.to_builtins(result)))

    append("kernels", given.kernels())
    for number, name in enumerate(("mul", "cat", ""), 1):
        culprits = (Culprit(operator=name, finding=f"{number} times as far"),) if name else ()
        found = Attribution(round=number, gate="accuracy", operators=9, together="far", culprits=culprits, clean=True)
        append("attribute", found)
    return tmp_path


def explain(workspace: Path, *flags: str) -> list[str]:
    return ["explain", CELL, "--matrix", str(ROOT / "matrix.yaml"), "--workspace", str(workspace), *flags]


def test_every_round_and_every_excluded_operator_is_shown(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(explain(workspace)) == 0
    out = capsys.readouterr().out
    assert "– mul is left out, crash: killed by SIGSEGV at mul.Tensor [2×1×96]" in out
    assert "round 1: accuracy failed, and the cell went on without these operators:" in out
    assert "✗ mul: 1 times as far" in out
    assert "✗ cat: 2 times as far" in out
    assert "the operators are not the cause: far" in out


def test_json_has_the_rounds(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(explain(workspace, "--json")) == 0
    output = json.loads(capsys.readouterr().out)
    assert [each["culprits"][0]["operator"] for each in output["attributed"]] == ["mul", "cat"]


def test_changes_since_the_last_attempt_are_named(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = open_project(Options(matrix=ROOT / "matrix.yaml", workspace=workspace))
    cell = next(cell for cell in project.cells if cell.id == CELL)
    now = keys(project.job(cell), STAGES)["kernels"]
    inputs = {**now.parts.inputs, "limits.max_len": 7}
    parts = replace(now.parts, inputs=inputs, code={**now.parts.code, "stages.kernels": "0-0"})
    last = project.ledger.last(CELL, "kernels")
    assert last is not None
    assert app.main(explain(workspace)) == 0
    assert "  changed   its inputs; which of them was not recorded at the time" in capsys.readouterr().out
    project.ledger.append(replace(last, key="1" * 64, parts=parts))
    assert app.main(explain(workspace)) == 0
    out = capsys.readouterr().out
    longest = now.parts.inputs["limits.max_len"]
    assert f"  changed   limits.max_len 7 → {longest}\n  changed   code of stages.kernels\n" in out
    decision = Keep(stage="kernels", from_key="1" * 64, to_key=now.key, reason="so", by="ada", at="2026")
    project.ledger.append(replace(last, stage=KEEP, key=now.key, result=msgspec.to_builtins(decision)))
    assert app.main(explain(workspace)) == 0
    assert "  kept      so (by ada, 2026 UTC)" in capsys.readouterr().out
    assert app.main(explain(workspace, "--json")) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["changed"]["kernels"][-1] == "code of stages.kernels"
    assert output["kept"]["kernels"]["by"] == "ada"


def test_a_blocked_cell_has_the_state_and_reason_of_status(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "matrix.lock").unlink()
    assert app.main(["status", CELL, "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["cells"]
    assert shown["state"] == "blocked"
    assert app.main(["explain", CELL]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"{CELL} is blocked: {shown['reason']}", f"  next      {shown['hint']}"]
    assert "flagrelease lock" in shown["hint"]
    assert app.main(["explain", CELL, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reason"] == shown["reason"]
