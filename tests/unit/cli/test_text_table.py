"""Tables fit the terminal, in whatever language a reason is written."""

import pytest

from flagrelease.cli.text_table import _width, aligned, counts, figures, wrapped

HEADING = ["cell", "state", "reason"]
REASON = "the data is in your data folder, and none was given; see https://example.org/a/very/long/address/of/a/page"


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100])
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("reason", [REASON, "数据在您的数据文件夹中" * 9, "", "short"])
def test_no_line_is_wider_than_the_terminal(width: int, cut: bool, reason: str) -> None:
    rows = [["metax/qwen3-8b", "blocked", reason], ["cpu/tiny", "red", "it broke"]]
    lines = aligned(HEADING, rows, width=width, cut=cut).splitlines()
    assert max(map(_width, lines)) <= width
    if cut:
        assert len(lines) <= 6 or width < 40
    else:
        shown = "".join("".join(lines).split())
        assert "".join(reason.split()) in shown, "nothing is lost"
    assert any(line.split()[0] == "cpu/tiny" for line in lines)


def test_a_file_gets_whole_lines() -> None:
    assert aligned(HEADING, [["cpu/tiny", "red", REASON]]).splitlines()[1] == f"cpu/tiny  red    {REASON}"


def test_states_are_counted_in_order() -> None:
    assert counts(["new", "red", "new", "odd"], ["red", "blocked", "new"]) == "1 red, 2 new, 1 odd"


def test_columns_that_are_wider_than_the_terminal_follow_each_other() -> None:
    rows = [["nvidia-h100/smollm2-135m", "", "blocked", "no data"], ["", "image", "run", "never run"]]
    text = aligned(["cell", "stage", "action", "reason"], rows, width=39)
    assert text.splitlines() == [
        "cell  stage  action",
        "    reason",
        "nvidia-h100/smollm2-135m  blocked",
        "    no data",
        "image  run",
        "    never run",
    ]


def test_figures_get_a_line_each_on_a_narrow_terminal() -> None:
    heading, rows = ["cell", "margin", "a long heading of a column"], [["cpu/tiny", "5 pt", "1"], ["", "3 pt", ""]]
    assert figures(heading, rows, right=[1, 2], width=100) == aligned(heading, rows, right=[1, 2])
    lines = figures(heading, rows, right=[1, 2], width=30).splitlines()
    assert lines == ["cell: cpu/tiny", "  margin: 5 pt", "  a long heading of a column:", "    1", "margin: 3 pt"]


def test_broken_lines_are_indented() -> None:
    assert wrapped("  why       a b c d e f", 16, 12) == "  why       a b\n            c d\n            e f"
    assert wrapped("short", 14) == wrapped("short", None) == "short"
