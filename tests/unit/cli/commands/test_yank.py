"""`flagrelease yank`: sticky, shown by `status` and `history`, and it changes nothing that is published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flagrelease.cli import app
from flagrelease.config.cell import Cell
from flagrelease.run.project import Options, Project, open_project
from flagrelease.store.evidence import EvidenceStore
from flagrelease.store.ledger import Entry, Ledger

ROOT = Path(__file__).parents[4]
CELL = "cpu/smollm2-135m"


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A project in the current folder whose cell has two releases."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "matrix.yaml").write_bytes((ROOT / "templates/matrix.yaml").read_bytes())
    ledger = Ledger(tmp_path / ".flagrelease/ledger.jsonl")
    record = EvidenceStore(tmp_path / ".flagrelease/evidence").put(
        "release.json", (ROOT / "docs/example/release.json").read_bytes()
    )
    for tag in ("tag-1", "tag-2"):
        result = {
            "digest": f"sha256:{tag}",
            "tags": [f"localhost:5000/x/y:{tag}", "localhost:5000/x/y:latest"],
            "folder": f"releases/{CELL}/{tag}",
            "record": {"name": record.name, "sha256": record.sha256, "size": record.size},
        }
        ledger.append(
            Entry(
                at="2026-01-01T00:00:00+00:00",
                run=tag,
                cell=CELL,
                stage="publish",
                state="done",
                key=tag,
                process="1@b",
                result=result,
            )
        )
    return ledger


def state(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    assert app.main(["status", CELL, "--json"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    return cell["state"], cell["reason"]


def test_the_newest_release_is_yanked_until_it_is_undone(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["yank", CELL, "--reason", "garbage after 4 h", "--json"]) == 0
    yank = json.loads(capsys.readouterr().out)["yank"]
    assert (yank["tag"], yank["image"]) == ("tag-2", "localhost:5000/x/y@sha256:tag-2")
    assert state(capsys) == ("yanked", "garbage after 4 h")
    assert app.main(["status", CELL, "--state", "yanked"]) == 0
    assert "garbage after 4 h" in capsys.readouterr().out
    assert app.main(["history", CELL]) == 0
    assert "tag-2: garbage after 4 h (by " in capsys.readouterr().out
    assert app.main(["yank", CELL, "--reason", "the probe was broken", "--undo"]) == 0
    capsys.readouterr()
    assert state(capsys) == ("released", "")


def test_a_yank_stays_when_the_same_release_is_published_again(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = ledger.entries()[-1]
    assert app.main(["yank", CELL, "--reason", "garbage"]) == 0
    ledger.append(newest)
    capsys.readouterr()
    assert state(capsys)[0] == "yanked"


def test_a_new_release_is_not_yanked_and_names_its_yanked_parent(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["yank", CELL, "--reason", "garbage", "--tag", "tag-1"]) == 0
    capsys.readouterr()
    assert state(capsys) == ("released", "")
    assert app.main(["yank", CELL, "--reason", "worse"]) == 0
    project: Project = open_project(Options())
    previous = project.previous(CELL)
    assert previous is not None
    assert (previous.tag, previous.yanked, len(previous.keys)) == ("tag-2", "worse", 5)
    assert isinstance(project.cells[0], Cell)
    assert project.previous("cpu/other") is None


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([CELL, "--reason", " "], "--reason is empty"),
        ([CELL, "--reason", "x", "--tag", "tag-3"], "has no release 'tag-3'"),
        ([CELL, "--reason", "x", "--undo"], "tag-2 is not yanked"),
        (["cpu/smollm2-135n", "--reason", "x"], f"did you mean '{CELL}'?"),
        (["nvidia-h100/smollm2-135m", "--reason", "x"], "has no published release"),
    ],
)
def test_what_cannot_be_yanked(ledger: Ledger, capsys: pytest.CaptureFixture[str], argv: list[str], said: str) -> None:
    before = ledger.path.read_bytes()
    assert app.main(["yank", *argv]) == 2
    assert said in capsys.readouterr().err
    assert ledger.path.read_bytes() == before


def test_a_release_is_not_yanked_twice(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["yank", CELL, "--reason", "garbage"]) == 0
    assert app.main(["yank", CELL, "--reason", "garbage"]) == 2
    assert "tag-2 is already yanked" in capsys.readouterr().err
