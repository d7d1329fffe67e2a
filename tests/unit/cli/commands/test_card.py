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
FILES = ["README.md", "README_zh.md", "every-eval-ever.json", "release.json", "scores.png"]


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
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES


def test_json_names_every_file_by_its_digest(argv: list[str], written: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main([*argv, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["card"] == written
    assert sorted(shown["files"]) == FILES


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
    assert ", ".join(FILES) in capsys.readouterr().out


def test_lint_lists_the_defects_of_a_card_from_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = tmp_path / "card.md"
    card.write_text("# Title\n\n![chart](a.png)\n\n```bash\ndocker pull x:latest\n```\n")
    (tmp_path / "a.png").touch()
    assert app.main(["card", "--lint", str(card)]) == 4
    assert capsys.readouterr().out == (
        f"{card}:1: error: no front matter between two lines of ---\n"
        f"{card}:6: error: image x has the tag latest, which moves: name its digest\n"
        "2 errors, 0 warnings\n"
    )
    assert app.main(["card", "--lint", str(card), "--json"]) == 4
    shown = json.loads(capsys.readouterr().out)
    assert (shown["errors"], shown["warnings"]) == (2, 0)
    assert shown["findings"][1] == {
        "line": 6,
        "text": "image x has the tag latest, which moves: name its digest",
        "severity": "error",
        "check": "image references",
    }


def test_lint_passes_a_card_with_warnings_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = tmp_path / "card.md"
    card.write_text("---\nlicense: mit\nbase_model: a/b\npipeline_tag: text-generation\n---\n\n# Title\n")
    assert app.main(["card", "--lint", str(card)]) == 0
    assert capsys.readouterr().out == f"{card}:1: warning: front matter: no tags\n0 errors, 1 warning\n"


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file or directory"), (b"\xff\xfe", "it is not UTF-8 text")]
)
def test_lint_needs_a_text_file(
    content: bytes | None, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "card.md").write_bytes(content)
    assert app.main(["card", "--lint", str(tmp_path / "card.md")]) == 2
    assert f"card.md cannot be read: {why}" in capsys.readouterr().err


def test_a_cell_or_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["card", CELL, "--lint", "card.md"]) == 2
    assert "not allowed with argument" in capsys.readouterr().err
    assert app.main(["card", "--lint", "card.md", "--output", "out"]) == 2
    assert "--lint writes no files" in capsys.readouterr().err
