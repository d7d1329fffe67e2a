"""`flagrelease explain` of a cell whose operators were searched: what is left out, and every round."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

import finished_cell as given
from flagrelease import cli
from flagrelease.assemble import Options, project
from flagrelease.ledger import Entry
from flagrelease.results import Attribution, Culprit
from flagrelease.stage import keys
from flagrelease.stages import REMEDY, STAGES

ROOT = Path(__file__).parents[2]
CELL = "nvidia-h100/smollm2-135m"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Two rounds that named an operator each, and one that named nobody, as `run` writes them."""
    everything = project(Options(matrix=ROOT / "matrix.yaml", workspace=tmp_path))
    cell = next(one for one in everything.cells if one.id == CELL)

    def append(stage: str, result: Any) -> None:
        key = keys(everything.job(cell), (*STAGES, REMEDY.stage))[stage]
        entry = Entry(at="2026", run="r", cell=CELL, stage=stage, state="done", key=key, process="1@b", result=result)
        everything.ledger.append(replace(entry, result=msgspec.to_builtins(result)))

    append("kernels", given.kernels())
    for number, name in enumerate(("mul", "cat", ""), 1):
        culprits = (Culprit(operator=name, finding=f"{number} times as far"),) if name else ()
        found = Attribution(round=number, gate="accuracy", operators=9, together="far", culprits=culprits, clean=True)
        append("attribute", found)
    return tmp_path


def explain(workspace: Path, *words: str) -> list[str]:
    return ["explain", CELL, "--matrix", str(ROOT / "matrix.yaml"), "--workspace", str(workspace), *words]


def test_every_round_and_every_operator_that_is_left_out_is_told(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(explain(workspace)) == 0
    out = capsys.readouterr().out
    assert "– mul is left out, crash: killed by SIGSEGV at mul.Tensor [2×1×96]" in out
    assert "round 1: accuracy failed" in out
    assert "✗ mul: 1 times as far" in out
    assert "✗ cat: 2 times as far" in out
    assert "the operators are not guilty: far" in out


def test_json_has_the_rounds(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(explain(workspace, "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["culprits"][0]["operator"] for one in told["attributed"]] == ["mul", "cat"]
