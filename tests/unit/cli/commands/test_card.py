"""`flagrelease card`, with and without a finished card stage."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

import support.finished_cell as given
from flagrelease.cli import app
from flagrelease.stages.card import record
from flagrelease.stages.card import stage as card
from flagrelease.store.ledger import Entry, Ledger, State

CELL = "cpu/smollm2-135m"


@pytest.fixture
def argv(tmp_path: Path) -> list[str]:
    """The command line, for a workspace without a card."""
    shutil.copy(Path(__file__).parents[4] / "matrix.yaml", tmp_path)
    return ["card", CELL, "--matrix", str(tmp_path / "matrix.yaml"), "--workspace", str(tmp_path / "space")]


@pytest.fixture
def written(tmp_path: Path, argv: list[str]) -> str:
    context = given.context(tmp_path / "space", registry=None)
    made = card.run(given.job(), context)
    Ledger(context.workspace.ledger).append(
        Entry(
            at="2026-01-01T00:00:00+00:00",
            run="0" * 12,
            cell=CELL,
            stage="card",
            state="done",
            key="0" * 64,
            process="1@boot",
            result=msgspec.to_builtins(made),
        )
    )
    return context.evidence.read(made.readme).decode()


def test_it_prints_the_card(argv: list[str], written: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(argv) == 0
    assert capsys.readouterr().out == written


def test_it_writes_the_card_with_its_record_and_chart(
    argv: list[str], written: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main([*argv, "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/README.md").read_text() == written
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "release.json", "scores.png"]


def test_json_names_every_file_by_its_digest(argv: list[str], written: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main([*argv, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["card"] == written
    assert set(shown["files"]) == {"README.md", "release.json", "scores.png"}


def test_the_card_of_a_yanked_release_says_so_and_the_stored_one_stays(
    argv: list[str], written: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main([*argv, "--output", str(tmp_path / "out")]) == 0
    digest = hashlib.sha256((tmp_path / "out/release.json").read_bytes()).hexdigest()
    tag = f"tree_none-gems_none-scale_0.8.0-cx_none-{digest[:12]}"
    yank = {"tag": tag, "image": "", "reason": "wrong | <b>answers</b>", "by": "me", "at": "2026-01-05T00:00:00+00:00"}
    Ledger(tmp_path / "space/ledger.jsonl").append(
        Entry(
            at=yank["at"], run="0" * 12, cell=CELL, stage="yank", state="done", key=tag, process="1@boot", result=yank
        )
    )
    capsys.readouterr()
    assert app.main(argv) == 0
    shown = capsys.readouterr().out
    notice = r"> **Yanked on 2026-01-05: do not use this release.** wrong \| &lt;b&gt;answers&lt;/b&gt;"
    assert f"---\n\n{notice}\n\n# SmolLM2" in shown
    assert shown.replace(f"{notice}\n\n", "") == written


def test_no_card_yet(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(argv) == 2
    assert "has no card yet: not finished: weights, image, smoke, accuracy" in capsys.readouterr().err


def test_a_tampered_card_is_refused(argv: list[str], written: str, tmp_path: Path) -> None:
    for path in (tmp_path / "space/evidence").rglob("*"):
        if path.is_file() and path.read_bytes() == written.encode():
            path.chmod(0o644)
            path.write_text(written.replace("0.290", "0.990"))
    assert app.main(argv) == 7


def test_the_card_of_a_stopped_cell_shows_its_results_and_is_not_a_release(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(given.workspace(tmp_path / "space").ledger)

    def append(stage: str, state: State, result: object = None) -> None:
        at = "2026-01-01T00:00:00+00:00"
        entry = Entry(at=at, run="0" * 12, cell=CELL, stage=stage, state=state, key="0" * 64, process="1@boot")
        ledger.append(replace(entry, result=msgspec.to_builtins(result)))

    for done in given.finished():
        append(done.stage, "done", done.result)
    append("speed", "running")
    assert app.main([*argv, "--output", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/README.md").read_text()
    assert "Verdict of the evaluation: **INCONCLUSIVE**. speed was stopped before it was decided" in text
    assert "Speed was stopped before it was decided, so this card does not report it." in text
    made = record.loads((tmp_path / "out/release.json").read_bytes())
    assert (made.accuracy.verdict, made.verdict) == ("PASS", "INCONCLUSIVE")
    assert "README.md, release.json, scores.png" in capsys.readouterr().out
