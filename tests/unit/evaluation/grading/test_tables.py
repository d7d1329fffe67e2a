"""Tables in the formats that LiveBench asks for, and when two of them are equal."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagrelease.evaluation.grading.tables import Table, asked_format, mapping, parse, same


def test_the_asked_format_is_read_from_the_prompt() -> None:
    prompt = "Please convert the Input Table from JSONL format to HTML format."
    assert asked_format(prompt) == "html"
    assert asked_format("Sort the table") == ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": null}', {"a": None}),
        ("{'a': None}", {"a": None}),
        ('{"a": true}', {"a": True}),
        ("[1]", None),
        ("", None),
    ],
)
def test_a_mapping_is_python_or_json(text: str, value: object) -> None:
    assert mapping(text) == value


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("NaN", "", True),
        ("null", "NONE", True),
        (" x ", "x", True),
        ("x", "", False),
        ("", "x", False),
        ("a", "A", False),
        ("1.0", "1", True),
        ("1e3", "1000", True),
        ("1.0000000001", "1", True),
        ("1.00000001", "1", False),
        ("0", "", False),
    ],
)
def test_values_are_compared_as_numbers_or_text(one: str, other: str, equal: bool) -> None:
    assert same([{"c": one}], [{" c ": other}]) is equal


@pytest.mark.parametrize(
    ("kind", "text", "table"),
    [
        ("csv", "a,b\n1,2\n\n", [{"a": "1", "b": "2"}]),
        ("tsv", "a\tb\n1\t2", [{"a": "1", "b": "2"}]),
        ("csv", "a,b\n1", None),
        ("csv", "a,b\n1,2,3", None),
        ("jsonl", '{"a": 1}\n\n{"a": null}', [{"a": "1"}, {"a": ""}]),
        ("json", '{"0": {"a": 1}}', [{"a": "1"}]),
        ("html", "<table>x<tr>y<th>a</th>z</tr><tr><td>1 &amp; <b>2</b></td>z</tr></table>", [{"a": "1 & 2"}]),
        ("html", "<td>stray</td><tr><td>a</td></tr><tr><td>b<br>c</td></tr>", [{"a": "bc"}]),
        ("html", "<tr><td>a</td><td>b</td></tr><tr><td>1</td></tr>", None),
        ("html", "<tr><td>a</td></tr><tr><td>1</td><td>2</td></tr>", None),
        ("html", "<p>no table</p>", None),
        ("yaml", "a: 1", None),
    ],
)
def test_a_table_is_read_or_refused(kind: str, text: str, table: Table | None) -> None:
    assert parse(kind, text) == table


CELLS = st.text(alphabet="ab1 ,\"'\n<&é", max_size=6)
TABLES = st.lists(st.fixed_dictionaries({"x": CELLS, "y z": CELLS}), min_size=1, max_size=4)


@given(TABLES)
def test_a_table_that_is_written_is_read_back(table: Table) -> None:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["x", "y z"], quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(table)
    read = [parse("csv", out.getvalue()), parse("json", json.dumps(table))]
    read.append(parse("jsonl", "\n".join(json.dumps(row) for row in table)))
    for one in read:
        assert one is not None
        assert same(one, table)
