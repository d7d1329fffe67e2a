"""The page of a night: what needs somebody is first, with its reason and what to do."""

from __future__ import annotations

from flagrelease.cli.night_page import page
from flagrelease.cli.summary import CellResult
from flagrelease.store.ledger import Failure


def result(cell: str, state: str, **more: object) -> CellResult:
    given = {"stage": "", "reason": "", "code": 0, "seconds": 0.0, **more}
    return CellResult(cell=cell, state=state, **given)  # type: ignore[arg-type]


RED = result(
    "metax/qwen3-8b",
    "red",
    stage="smoke",
    reason="an answer | is wrong",
    code=4,
    seconds=3700.0,
    verdict="FAIL",
    failure=Failure(
        kind="SmokeFailed", code=4, what="1 of 17 checks failed", why="<b>'7'", hint="see the log", detail="```\nx"
    ),
)
WAITING = result("metax/llama", "waiting", reason="not started", code=6)
NEW = result("cpu/tiny", "released", reason="tag", seconds=61.0, verdict="PASS")


def test_what_needs_somebody_comes_first_with_its_reason_and_what_to_do() -> None:
    text = page([NEW, WAITING, RED], "2026-11-29")
    heading, *_ = text.splitlines()
    assert heading == "# Night of 2026-11-29: 1 red, 1 waiting, 1 released"
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == ["metax/qwen3-8b", "metax/llama", "cpu/tiny"]
    assert r"an answer \| is wrong" in rows[0]
    assert "## metax/qwen3-8b: red at smoke" in text
    assert "metax/qwen3-8b smoke: 1 of 17 checks failed: &lt;b&gt;'7'." in text
    assert "What to do: see the log." in text
    assert "`flagrelease explain metax/qwen3-8b`" in text
    assert "````text\n```\nx\n````" in text  # evidence cannot leave its block


def test_a_cell_that_waits_has_no_section_of_its_own() -> None:
    assert "## metax/llama" not in page([WAITING], "2026-11-29")


def test_a_night_without_cells_says_so() -> None:
    assert page([], "2026-11-29") == "# Night of 2026-11-29\n\nNo cell was selected.\n"
