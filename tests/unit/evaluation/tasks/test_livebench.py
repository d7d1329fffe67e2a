"""LiveBench's graders on hand-made answers, and on the references of the real questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flagrelease.errors import ConfigError
from flagrelease.evaluation.datasets import DataFile, DataSet
from flagrelease.evaluation.grading import programs, tables
from flagrelease.evaluation.question import Question, Reply
from flagrelease.evaluation.tasks import TASKS
from support.benchmark_data import real

FOURS = "a, b, c, d, e, f, g, h"


def score(kind: str, reference: Any, text: str, prompt: str = "") -> float:
    question = Question(subset=kind, id="1", messages=(), reference=(kind, reference, prompt))
    reply = Reply(text=text, finish_reason="stop", completion_tokens=1)
    return float(TASKS["livebench"].grade(question, reply).correct)


@pytest.mark.parametrize(
    ("kind", "reference", "text", "expected"),
    [
        ("math_comp", "D", "so DDDDD", 1.0),
        ("math_comp", "D", "so \\boxed{\\text{D}}", 1.0),
        ("math_comp", "D", "so <solution>D</solution>", 1.0),
        ("math_comp", "D", "so AAAAA", 0.0),
        ("math_comp", "025", "thus the answer is 025", 1.0),
        ("math_comp", "025", "025 is wrong" + " x" * 40 + " 026", 0.0),
        ("olympiad", "1,2,3,4", "Answer: 1, 2, 3, 4", 1.0),
        ("olympiad", "1,2,3,4", "**Answer:** 1, 3, 4", 0.75),
        ("olympiad", "1,2,3,4", "Answer: 4,3,2,1", 0.0),
        ("olympiad", "1,2", "nothing", 0.0),
        ("spatial", "3", "There are **3**", 1.0),
        ("spatial", "3", "There are **three**.", 1.0),
        ("spatial", "tetrahedron", "It is a **Tetrahedron**", 1.0),
        ("spatial", "3", "**4**", 0.0),
        ("web_of_lies_v2", "no, yes, yes", "so **no, yes, yes**", 1.0),
        ("web_of_lies_v2", "no, yes, yes", "so <solution>no, yes, no</solution>", 0.0),
        ("web_of_lies_v2", "no, yes, yes", "**yes**", 0.0),
        ("zebra_puzzle", "1, police-officer", "<solution>1, police officer</solution>", 1.0),
        ("zebra_puzzle", "1, police-officer", "<solution>1, journalist</solution>", 0.25),
        ("zebra_puzzle", "1, police-officer", "no idea", 0.0),
        ("typos", "It is so, we say.", "Here:\nIt is so\nwe say.", 0.0),
        ("typos", "It is so, we say.", "Here:\n\nIt is so,\nwe say.", 1.0),
        ("connections", FOURS, "Best: **b, a, d, c, h, g, f, e**", 1.0),
        ("connections", FOURS, "**a, b, c, d** or **a, b, c, e, d, f, g, h**", 0.5),
        ("connections", FOURS, "a, b, c, d, e, f, g, h", 0.0),
        ("plot_unscrambling", "A b c. D e f. G h i.", "So: <PLOT_SUMMARY> A b c. D e f. G h i.", 1.0),
        ("plot_unscrambling", "A b c. D e f. G h i.", "D e f. A b c. G h i.", pytest.approx(1 / 3)),
        ("plot_unscrambling", "A b c. D e f.", "", 0.0),
        ("cta", "Year", "Year", 1.0),
        ("cta", "Year", "The class is:\n**Year**", 1.0),
        ("cta", "Year", "country", 0.0),
        ("tablejoin", '{"a": "x", "b": "y"}', '```python\n{"a": "x", "b": "y"}\n```', 1.0),
        ("tablejoin", '{"a": "x", "b": "y"}', "{'a': 'x'}", 0.67),
        ("tablejoin", '{"a": "x", "b": "y"}', "{'a': 'x', 'b': 'z'}", 0.5),
        ("tablejoin", '{"a": "x"}', "__import__('os')", 0.0),
        ("simplify", (("punctuation:no_comma", {}), ("detectable_format:title", {})), "no title", 0.25),
    ],
)
def test_grades(kind: str, reference: Any, text: str, expected: float) -> None:
    assert score(kind, reference, text) == pytest.approx(expected)


def test_connections_are_read_from_the_tag_where_the_prompt_asks_for_one() -> None:
    asked = "put them in <solution></solution> tags"
    assert score("connections", FOURS, "<solution>a, b, c, d, h, g, f, e</solution>", asked) == 1.0
    assert score("connections", FOURS, "**a, b, c, d, e, f, g, h**", asked) == 0.0
    assert score("connections", FOURS, "\\boxed{\\text{a, b, c, d, e, f, g, x}}", asked) == 0.5


def livebench(tmp_path: Path, *kinds: str) -> DataSet:
    row = {
        "turns": ["Do it."],
        "ground_truth": "x",
        "livebench_release_date": "2024-07-26",
        "livebench_removal_date": "",
    }
    path = tmp_path / "question.jsonl"
    rows = [{**row, "question_id": f"q{at}", "task": kind} for at, kind in enumerate(kinds)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataSet(benchmark="livebench", digest="0" * 64, files=(DataFile(name=path.name, path=path),))


def test_programs_are_left_out_without_a_sandbox_and_unknown_tasks_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "sandbox", lambda: "")
    read = TASKS["livebench"].read
    asked = read(livebench(tmp_path, "typos", "LCB_generation", "coding_completion", "plot_unscrambling"), 0)
    assert [question.subset for question in asked] == ["typos", "plot_unscrambling"]
    with pytest.raises(ConfigError, match="'poetry' cannot be graded"):
        read(livebench(tmp_path, "poetry"), 0)


TABLE = [{"a": "1", "b": "x, y"}, {"a": "2.0", "b": ""}]
WRITTEN = {
    "csv": 'a,b\n1,"x, y"\n2,\n',
    "tsv": "b\ta\nx, y\t1\n\t2\n",
    "json": '{"7": {"a": 1, "b": "x, y"}, "9": {"a": 2.0, "b": null}}',
    "jsonl": '{"a": 1, "b": "x, y"}\n{"a": 2, "b": ""}',
    "html": "<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>x, y</td></tr><tr><td>2</td><td></td></tr></table>",
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_table_is_the_same_in_every_format(kind: str) -> None:
    parsed = tables.parse(kind, WRITTEN[kind])
    assert parsed is not None
    assert tables.same(parsed, TABLE)
    assert not tables.same(parsed, TABLE[:1])
    assert not tables.same(parsed, [TABLE[0], {"a": "3", "b": ""}])


@pytest.mark.parametrize("kind", WRITTEN)
def test_an_invalid_table_is_none(kind: str) -> None:
    assert not tables.parse(kind, "{ not a table")


def test_the_real_questions_are_the_732_of_the_release() -> None:
    questions = TASKS["livebench"].read(real("livebench"), 0)
    assert len(questions) == 732
    assert len({(question.subset, question.id) for question in questions}) == 732


WRAPPED = {
    "math_comp": lambda text: text if text.isdigit() else text * 5,
    "AMPS_Hard": lambda text: f"\\boxed{{{text}}}",
    "olympiad": lambda text: f"because\n\nAnswer: {text}",
    "spatial": lambda text: f"hence **{text}**",
    "web_of_lies_v2": lambda text: f"hence **{text}**",
    "zebra_puzzle": lambda text: f"<solution>{text}</solution>",
    "cta": str,
    "tablejoin": lambda text: f"```python\n{json.loads(text)}\n```",
    "tablereformat": lambda text: f"```\n{text}\n```",
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_the_reference_of_every_real_question_is_right(kind: str) -> None:
    questions = [one for one in TASKS["livebench"].read(real("livebench"), 0) if one.subset == kind]
    assert questions
    for question in questions:
        _, reference, prompt = question.reference
        assert score(kind, reference, WRAPPED[kind](reference), prompt) == 1.0, question.id
