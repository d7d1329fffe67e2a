"""`flagrelease diff`: the kinds of subjects, the table, JSON and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flagrelease.cli import app
from flagrelease.releases import facts, matrix
from flagrelease.releases.matrix import CellState, Published
from flagrelease.store.evidence import Evidence
from flagrelease.store.ledger import Entry, Failure, Ledger

ROOT = Path(__file__).parents[4]
RECORD = ROOT / "docs/example/release.json"
CELL = "cpu/smollm2-135m"


def entry(state: str, **more: object) -> Entry:
    error = Failure(kind="GateFailed", code=4, what=f"{CELL} is not published: smoke failed")
    return Entry(
        at="2026-01-01T00:00:00+00:00",
        run="r",
        cell=CELL,
        stage="publish",
        state=state,  # type: ignore[arg-type]
        key="0",
        process="1@b",
        error=error if state == "failed" else None,
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with one release."""
    folder = tmp_path / "releases" / CELL / "tag-1"
    folder.mkdir(parents=True)
    (folder / "release.json").write_bytes(RECORD.read_bytes())
    result = {
        "digest": "sha256:1",
        "tags": ["localhost:5000/x/y:tag-1", "localhost:5000/x/y:latest"],
        "folder": f"releases/{CELL}/tag-1",
        "record": {"name": "release.json", "sha256": "1" * 64, "size": 1},
    }
    Ledger(tmp_path / "ledger.jsonl").append(entry("done", result=result))
    index = {
        "cell": CELL,
        "tag": "tag-1",
        "image": "",
        "verdict": "PASS",
        "record_sha256": "",
        "folder": f"{CELL}/tag-1",
    }
    (tmp_path / "releases/index.json").write_text(json.dumps({"releases": [index], "version": 1}))
    return tmp_path


def test_two_releases_that_differ_exit_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["diff", str(RECORD.parent), str(ROOT / "docs/example-h100/release.json")]) == 0
    shown = capsys.readouterr().out
    assert "flaggems" in shown
    record = json.loads(RECORD.read_text())
    (score,) = record["accuracy"]["benchmarks"]
    low, high = score["interval90"]
    assert f"{record['image']['size'] / 1e6:.1f} MB" in shown
    assert f"{score['candidate']:.3f} (difference [{low:+.3f}, {high:+.3f}])" in shown
    assert app.main(["diff", "--json", str(RECORD), str(RECORD)]) == 0
    assert json.loads(capsys.readouterr().out)["changes"] == []
    assert app.main(["diff", str(RECORD), str(RECORD)]) == 0
    assert "no difference" in capsys.readouterr().out


def test_two_states_of_the_matrix(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    later = workspace.parent / f"{workspace.name}-later"
    later.mkdir()
    (later / "releases").symlink_to(workspace / "releases")
    ledger = Ledger(later / "ledger.jsonl")
    for line in Ledger(workspace / "ledger.jsonl").entries():
        ledger.append(line)
    ledger.append(entry("failed"))
    assert app.main(["diff", "--json", str(workspace), str(later)]) == 0
    (found,) = json.loads(capsys.readouterr().out)["cells"]
    assert (found["kind"], found["before"], found["after"]) == ("regression", "released", "red")
    assert found["reason"] == "not published: smoke failed"
    assert app.main(["diff", str(workspace / "releases/index.json"), str(workspace / "ledger.jsonl")]) == 0
    assert "no difference, 1 cell compared" in capsys.readouterr().out


def test_the_record_is_found_in_the_evidence(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "releases" / CELL / "tag-1/release.json").unlink()
    stored = workspace / "evidence/11" / Evidence("release.json", "1" * 64, 1).sha256
    stored.parent.mkdir(parents=True)
    stored.write_bytes((ROOT / "docs/example-h100/release.json").read_bytes())
    release = Published(tag="tag-1", facts=facts.read(RECORD.read_bytes()))
    cells = [CellState(cell=CELL, state="released", release=release), CellState(cell="a/b", state="new")]
    (workspace / "cells.json").write_bytes(matrix.dumps(cells))
    assert app.main(["diff", "--json", str(workspace / "cells.json"), str(workspace / "ledger.jsonl")]) == 0
    second, first = json.loads(capsys.readouterr().out)["cells"]
    assert {"area": "component", "name": "flaggems"}.items() <= first["changes"][1].items()
    assert (second["kind"], second["cell"], second["reason"]) == ("changed", "a/b", "the cell is not in B")


@pytest.mark.parametrize(
    ("subjects", "said"),
    [
        (["{0}/ledger.jsonl", str(RECORD)], "cannot be compared with a state of the matrix"),
        (["{0}/releases/cpu", str(RECORD)], "neither a release nor a state of the matrix"),
        (["{0}/none", str(RECORD)], "neither a folder nor an image"),
        ([str(ROOT / "README.md"), str(RECORD)], "is not a release record"),
    ],
)
def test_other_subjects_are_refused(
    workspace: Path, capsys: pytest.CaptureFixture[str], subjects: list[str], said: str
) -> None:
    assert app.main(["diff", *(subject.format(workspace) for subject in subjects)]) == 2
    assert said in capsys.readouterr().err
