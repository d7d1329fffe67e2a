"""Tables fit the terminal, in whatever language a reason is written."""

import pytest

from flagrelease.cli.text_table import _width, aligned, counts

HEADING = ["cell", "state", "reason"]
REASON = "the data is in your data folder, and none was given; see https://example.org/a/very/long/address/of/a/page"


@pytest.mark.parametrize("width", [40, 60, 80, 100])
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("reason", [REASON, "数据在您的数据文件夹中" * 9, "", "short"])
def test_no_line_is_wider_than_the_terminal(width: int, cut: bool, reason: str) -> None:
    rows = [["metax/qwen3-8b", "blocked", reason], ["cpu/tiny", "red", "it broke"]]
    lines = aligned(HEADING, rows, width=width, cut=cut).splitlines()
    assert max(map(_width, lines)) <= width
    if cut:
        assert len(lines) <= 6
    else:
        shown = "".join("".join(lines).split())
        assert "".join(reason.split()) in shown, "nothing is lost"
    assert any(line.split()[0] == "cpu/tiny" for line in lines)


def test_a_file_gets_whole_lines() -> None:
    assert aligned(HEADING, [["cpu/tiny", "red", REASON]]).splitlines()[1] == f"cpu/tiny  red    {REASON}"


def test_states_are_counted_in_order() -> None:
    assert counts(["new", "red", "new", "odd"], ["red", "blocked", "new"]) == "1 red, 2 new, 1 odd"
