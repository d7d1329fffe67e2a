"""The Chinese card says what the English one says."""

import re
from collections import Counter
from dataclasses import replace

import pytest

import support.finished_cell as given
from flagrelease.stages.card import chinese, lint, record, render
from flagrelease.stages.card.checks.page import Page
from flagrelease.stages.card.record import Record

PNG = b"\x89PNG\r\n\x1a\n"


def example(name: str) -> Record:
    """A record of an earlier version, which had no streaming example."""
    made = record.loads((given.TEMPLATES.parent / f"docs/{name}/release.json").read_bytes())
    reasons = {name: "an earlier version" for name in render.commands_of(made) if name not in made.smoke.commands}
    return replace(made, smoke=replace(made.smoke, not_run=reasons))


EXAMPLES = {name: example(name) for name in ("example", "example-h100")}
RECORDS = {
    **EXAMPLES,
    "no speed": given.record(),
    "operators": replace(given.record(), kernels=given.kernels()),
    "inconclusive": given.record(accuracy=given.accuracy(verdict="INCONCLUSIVE", reason="too few")),
    "processes": given.record(image=given.image(runner="process")),
    "no questions": given.record(accuracy=replace(given.accuracy(verdict="FAIL", reason="gate"), benchmarks=())),
}


def numbers(text: str) -> Counter[str]:
    return Counter(re.findall(r"\d[\d,.]*\d|\d", text))


@pytest.mark.parametrize("made", RECORDS.values(), ids=RECORDS)
def test_every_number_stands_in_both_cards_as_often(made: Record) -> None:
    english = render.render(made, given.TEMPLATES)
    translated = chinese.render_card(made, given.TEMPLATES)
    assert numbers(translated) == numbers(english)
    pages = [Page(text, made, {}) for text in (english, translated)]
    assert [page.chinese for page in pages] == [False, True]
    assert pages[0].blocks[0].line != 0
    assert [block.body for block in pages[0].blocks] == [block.body for block in pages[1].blocks]
    assert pages[0].front_matter == pages[1].front_matter
    assert [(len(table.rows), len(table.rows[0])) for table in pages[0].tables] == [
        (len(table.rows), len(table.rows[0])) for table in pages[1].tables
    ]


@pytest.mark.parametrize("made", RECORDS.values(), ids=RECORDS)
def test_it_passes_the_checks_of_the_english_one(made: Record) -> None:
    shown = {"README.md": b""}
    if made.accuracy.benchmarks:
        shown["scores.png"] = PNG
    if made.speed is not None:
        shown["speed.png"] = PNG
    found = [finding.text for finding in lint.lint(chinese.render_card(made, given.TEMPLATES), made, shown)]
    assert [text for text in found if "neither tag nor digest" not in text] == []


def test_a_number_that_differs_is_found() -> None:
    text = chinese.render_card(EXAMPLES["example"], given.TEMPLATES)
    row = EXAMPLES["example"].accuracy.benchmarks[0]
    wrong = text.replace(f"| {row.candidate:.3f} |", "| 0.999 |", 1)
    assert wrong != text
    shown = {"README.md": b"", "scores.png": PNG, "speed.png": PNG}
    assert any("the record has" in finding.text for finding in lint.lint(wrong, EXAMPLES["example"], shown))
    missing = text.replace("## 使用指南", "## 指南", 1)
    assert any("'使用指南' is missing" in finding.text for finding in lint.lint(missing, EXAMPLES["example"], shown))


def test_labels_of_tables_are_chinese_and_values_stay() -> None:
    text = chinese.render_card(given.record(), given.TEMPLATES)
    assert "| 指标 | native on cpu | flagos on cpu | 题数 |" in text
    assert "| `MMLU_0fewshot_@avg1` | 0.285 | 0.290 | 200 | 1 | +0.005 | [−0.012, +0.022] | 0.050 | PASS |" in text


@pytest.mark.parametrize("payload", ["{{7*191}}", "| x | y |", "<script>alert(1)</script>", "\n# owned\n", "**b**"])
def test_text_from_outside_is_inert(payload: str) -> None:
    made = given.record(accuracy=given.accuracy(reason=payload, verdict="FAIL"))
    made = replace(made, differences=(payload,))
    plain = replace(given.record(accuracy=given.accuracy(reason="x", verdict="FAIL")), differences=("x",))
    pages = [Page(chinese.render_card(each, given.TEMPLATES), each, {}) for each in (made, plain)]
    assert "1337" not in pages[0].text
    assert [len(page.headings) for page in pages] == [len(pages[0].headings)] * 2
    assert [len(page.tables) for page in pages] == [len(pages[0].tables)] * 2
    assert not [token for _, token in pages[0].inline if token.type in ("html_inline", "strong_open")] or (
        len([token for _, token in pages[0].inline if token.type == "strong_open"])
        == len([token for _, token in pages[1].inline if token.type == "strong_open"])
    )
