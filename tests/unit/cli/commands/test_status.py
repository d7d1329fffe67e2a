"""`status` and `plan`: what needs somebody first, with the numbers of all."""

import json
from pathlib import Path

import pytest

from flagrelease.cli import app
from flagrelease.config import matrix as matrices
from flagrelease.config.cell import expand
from flagrelease.releases.states import STATES
from flagrelease.store.ledger import Entry, Failure, Ledger
from flagrelease.store.workspace import Workspace

ROOT = Path(__file__).parents[4]
CELL = "cpu/smollm2-135m"
CELLS = expand(matrices.load(ROOT / "matrix.yaml"))
EXCLUDED = [cell.id for cell in CELLS if cell.excluded]
BLOCKED = len(CELLS) - len(EXCLUDED) - 1
"""All other cells: their base images and weights are not in matrix.lock."""


def failed(here: Path, code: int) -> None:
    error = Failure(kind="X", code=code, what=f"{CELL} is not published")
    entry = Entry(at="2026", run="r", cell=CELL, stage="publish", state="failed", key="k", process="1@b", error=error)
    Ledger(Workspace(here / ".flagrelease").ledger).append(entry)


def test_the_cells_that_need_somebody_come_first(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed(here, 4)
    assert app.main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "last attempt, UTC" in lines[0]
    assert lines[1].split(maxsplit=5)[:4] == [CELL, "red", "publish", "2026"]
    assert lines[1].endswith("  not published"), "the cell is named once"
    assert lines[-1] == f"{len(CELLS)} cells: 1 red, {BLOCKED} blocked, {len(EXCLUDED)} excluded"
    states = [line.split()[1] for line in lines[1:-2]]
    assert states == sorted(states, key=STATES.index)
    assert app.main(["plan"]) == 0
    printed, _, unknown = capsys.readouterr().out.partition("\n\nNo source says")
    assert "zhenwu: vendor.driver" not in unknown
    assert "arm: vendor.container, device.memory, base" in " ".join(unknown.split())
    lines = printed.splitlines()
    assert lines[1].startswith(CELL)
    assert lines[-1] == f"{len(CELLS)} cells: 1 run, {BLOCKED} blocked, {len(EXCLUDED)} excluded"
    assert lines[-3].startswith(EXCLUDED[-1]), "excluded cells come last"


def test_a_state_selects(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed(here, 5)
    assert app.main(["status", "--state", "inconclusive", "--json"]) == 0
    assert [cell["cell"] for cell in json.loads(capsys.readouterr().out)["cells"]] == [CELL]
    assert app.main(["status", "--state", "red"]) == 0
    assert capsys.readouterr().out == "no cell in this state\n"
    assert app.main(["plan", "--state", "blocked", "--state", "run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["cells"]) == BLOCKED + 1
    assert app.main(["plan", "--state", "unchanged"]) == 0
    assert capsys.readouterr().out == "no cell in this state\n"
    assert app.main(["status", "--state", "read"]) == 2


def test_a_cell_that_would_be_refused_is_blocked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "matrix.lock").unlink()
    assert app.main(["status", CELL, "--json"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert cell["state"] == "blocked"
    assert "is not locked" in cell["reason"]


def test_an_excluded_cell_can_be_looked_at(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = "cpu/qwen3-8b"
    assert app.main(["status", cell]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 cell: 1 excluded"
    assert app.main(["explain", cell]) == 0
    assert capsys.readouterr().out.startswith(f"{cell} is excluded: 8.2 billion parameters")
    assert app.main(["history", cell]) == 0
    assert app.main(["plan", cell]) == app.main(["run", cell]) == 3


def test_a_plan_in_which_every_cell_is_blocked_ends_as_run_would(here: Path) -> None:
    (here / "matrix.lock").unlink()
    assert app.main(["plan", CELL]) == app.main(["run", CELL]) == 2
    assert app.main(["plan", "--json"]) == 2
