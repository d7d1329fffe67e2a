"""Parse and compare tables and mappings in text."""

from __future__ import annotations

import ast
import csv
import io
import json
import math
import re
from html.parser import HTMLParser
from typing import Any

__all__ = ["Table", "asked_format", "fenced", "mapping", "parse", "same"]

Table = list[dict[str, str]]

_FENCE = re.compile(r"```[a-zA-Z]*\n?(.*?)```", re.DOTALL)
_ASKED = re.compile(r"from \w+ format to (\w+) format")
_MISSING = ("", "nan", "none", "null")


def fenced(text: str) -> str:
    """The content of the last code block, or the complete text."""
    blocks: list[str] = _FENCE.findall(text)
    return (blocks[-1] if blocks else text).strip()


def mapping(text: str) -> dict[str, Any] | None:
    """Parse a Python or JSON dictionary literal; None for anything else. Never evaluates code."""
    for read in (ast.literal_eval, json.loads):
        try:
            value = read(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return None


def asked_format(prompt: str) -> str:
    """The table format that the prompt asks for; empty if it names none."""
    match = _ASKED.search(prompt)
    return match[1].lower() if match else ""


def parse(kind: str, text: str) -> Table | None:
    """The rows of a table in csv, tsv, json, jsonl or html; None if it cannot be parsed."""
    try:
        match kind:
            case "csv" | "tsv":
                rows = list(csv.reader(io.StringIO(text.strip()), delimiter="," if kind == "csv" else "\t"))
                return [dict(zip(rows[0], row, strict=True)) for row in rows[1:] if row]
            case "json":
                value = json.loads(text)
                return _texts(value.values() if isinstance(value, dict) else value)
            case "jsonl":
                return _texts(json.loads(line) for line in text.splitlines() if line.strip())
            case "html":
                return _html(text)
    except (ValueError, IndexError, TypeError, AttributeError, csv.Error, RecursionError):
        return None
    return None


def same(one: Table, other: Table) -> bool:
    """Whether two tables have equal columns and rows, in order; values compare as numbers or as stripped text."""
    return len(one) == len(other) and all(
        _name_set(a) == _name_set(b) and all(_equal(value, _stripped(b)[name.strip()]) for name, value in a.items())
        for a, b in zip(one, other, strict=True)
    )


def _stripped(row: dict[str, str]) -> dict[str, str]:
    return {name.strip(): value for name, value in row.items()}


def _name_set(row: dict[str, str]) -> set[str]:
    return {name.strip() for name in row}


def _equal(one: str, other: str) -> bool:
    if one.strip() == other.strip() or (one.strip().lower() in _MISSING and other.strip().lower() in _MISSING):
        return True
    try:
        return math.isclose(float(one), float(other), rel_tol=1e-9)
    except ValueError:
        return False


def _texts(rows: Any) -> Table:
    return [{str(name): "" if value is None else str(value) for name, value in row.items()} for row in rows]


class _Cells(HTMLParser):
    """Collects the cells of every row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


def _html(text: str) -> Table | None:
    reader = _Cells()
    reader.feed(text)
    rows = [row for row in reader.rows if row]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]] if rows else None
