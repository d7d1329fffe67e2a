"""The exit codes are documented where they are read, and a run ends with the worst."""

import re
from pathlib import Path

import pytest

from flagrelease import errors
from flagrelease.cli import app
from flagrelease.cli.shared import show_error


def classes() -> list[type[errors.FlagreleaseError]]:
    found = [errors.FlagreleaseError]
    for parent in found:
        found += parent.__subclasses__()
    return [one for one in found if one.__module__ == "flagrelease.errors"]


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    drawn = dict(re.findall(r"(?:── |^)([A-Z]\w+) +(\d+)", errors.__doc__ or "", re.MULTILINE))
    assert {name: int(code) for name, code in drawn.items()} == {one.__name__: one.exit_code for one in classes()}


def test_every_exit_code_is_in_the_help() -> None:
    documented = set(re.findall(r"^  (\d+) ", app.parser().epilog or "", re.MULTILINE))
    assert {str(one.exit_code) for one in classes()} | {"0"} == documented


@pytest.mark.parametrize(
    ("codes", "worst"),
    [((), 0), ((0, 0), 0), ((0, 5), 5), ((5, 4), 4), ((4, 75, 0), 75), ((4, 6), 6), ((6, 1), 1), ((2, 130), 130)],
)
def test_worst(codes: tuple[int, ...], worst: int) -> None:
    assert errors.worst(codes) == worst


def test_two_hints_are_one_line() -> None:
    assert errors.also("known: cpu, metax", "a new one is added") == "known: cpu, metax; a new one is added"
    assert errors.also("did you mean 'cpu'?", "a new one is added") == "did you mean 'cpu'? A new one is added"


def test_did_you_mean() -> None:
    assert errors.did_you_mean("metx", ["metax", "cpu"]) == "did you mean 'metax'?"
    assert errors.did_you_mean("zzz", ["metax", "cpu"]) == "known: cpu, metax"
    known = ["cpu/qwen3", "cpu/llama", "gpu/one"]
    assert errors.did_you_mean("cpu", known) == "did you mean 'cpu/llama' or 'cpu/qwen3'?"


def test_an_error_is_shown_with_what_why_and_what_next(capsys: pytest.CaptureFixture[str]) -> None:
    show_error(errors.NoSpace("no space left", why="disk", hint="free some", detail="line 1\nline 2"))
    assert capsys.readouterr().err == "flagrelease: no space left: disk\n    line 1\n    line 2\n  → free some\n"


def test_the_words_of_a_server_are_redacted_before_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "open-sesame-open")
    words = errors.error_words({"error": {"message": "x " * 95 + "open-sesame-open"}})
    assert words == "x " * 95 + "$SOME_TOKE"


def test_a_hint_names_only_targets_that_make_has() -> None:
    root = Path(__file__).parents[2]
    targets = set(re.findall(r"^([a-z-]+):.*## ", (root / "Makefile").read_text(), re.MULTILINE))
    named = {
        name
        for folder in ("pipeline", "tests", "scripts")
        for path in (root / folder).rglob("*.py")
        for name in re.findall(r"`make ([a-z-]+)`", path.read_text())
    }
    assert "setup" in named
    assert named <= targets
