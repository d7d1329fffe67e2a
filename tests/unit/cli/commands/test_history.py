"""`history`: each attempt once, with what became of it."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flagrelease.cli import app
from flagrelease.store.ledger import Entry, Failure, Ledger, Spent, process_id
from flagrelease.store.workspace import Workspace
from support import finished_cell

ROOT = Path(__file__).parents[4]
CELL = "cpu/smollm2-135m"


@pytest.fixture
def ledger(here: Path) -> Ledger:
    return Ledger(Workspace(here / ".flagrelease").ledger)


def add(ledger: Ledger, run: str, stage: str, state: Any, cell: str = CELL, process: str = "1@x", **more: Any) -> None:
    ledger.append(Entry(at="2026-01-02T03:04:05+00:00", run=run, cell=cell, stage=stage, state=state, key="k",
                        process=process, **more))  # fmt: skip


def test_each_attempt_is_shown_once_with_its_end(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    add(ledger, "one", "image", "running")
    add(ledger, "one", "image", "done", result={"old": 1}, spent=Spent(seconds=61.0))
    add(ledger, "one", "smoke", "running")
    broken = Failure(kind="SmokeFailed", code=4, what=f"{CELL} fails", why="it does not answer")
    add(ledger, "one", "smoke", "failed", error=broken)
    add(ledger, "one", "smoke", "running")
    add(ledger, "two", "smoke", "running", process=process_id())
    add(ledger, "two", "smoke", "done", cell="metax/qwen3-8b")
    assert app.main(["history", CELL, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["attempts"]
    assert [(each["run"], each["stage"], each["state"]) for each in shown] == [
        ("one", "image", "done"),
        ("one", "smoke", "failed"),
        ("one", "smoke", "interrupted"),
        ("two", "smoke", "running"),
    ]
    assert (shown[0]["seconds"], shown[0]["summary"]) == (61.0, "written by another version")
    assert (shown[1]["exit_code"], shown[1]["summary"]) == (4, "fails: it does not answer")
    assert app.main(["history", CELL, "--stage", "smoke", "--last", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].split()[:3] == ["run", "ended,", "UTC"]
    assert lines[1].split()[:5] == ["two", "2026-01-02", "03:04", "smoke", "▸"]


def test_a_verdict_takes_the_place_of_done(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    judged = finished_cell.accuracy(finished_cell.score(verdict="FAIL"), verdict="FAIL", reason="worse")
    add(ledger, "one", "accuracy", "done", result=msgspec.to_builtins(judged))
    assert app.main(["history", CELL]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-3:] == ["✗", "FAIL", "worse"]


def test_stored_baselines_are_shown_and_notes_for_later_runs_are_not(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    add(ledger, "one", "baseline", "done", result={"benchmark": "sums", "score": 0.5, "chip": "cpu"})
    add(ledger, "one", "baseline", "done", result={"attempts": []})
    add(ledger, "one", "baseline", "done")
    for flags in ([], ["--stage", "baseline"]):
        assert app.main(["history", CELL, "--json", *flags]) == 0
        (shown,) = json.loads(capsys.readouterr().out)["attempts"]
        assert shown["summary"] == "sums: 0.500 on cpu"
    assert app.main(["history", CELL, "--stage", "keep"]) == 0


def test_bad_input(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["history", CELL]) == 0
    assert capsys.readouterr().out == f"{CELL}: no attempt is recorded\n"
    assert app.main(["history", CELL, "--stage", "smok"]) == 2
    assert "did you mean 'smoke'" in capsys.readouterr().err
    assert app.main(["history", CELL, "--last", "0"]) == 2
