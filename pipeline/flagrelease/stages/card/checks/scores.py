"""Check the evaluation table of a card from elsewhere: names of metrics, missing scores, one scale. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from flagrelease.stages.card.checks.finding import Finding, warning
from flagrelease.stages.card.checks.page import Page, Table

FORM = re.compile(r"[\w.+-]+_\d+fewshot_@avg\d+")
"""How FlagRelease spells a metric: NAME_<n>fewshot_@avg<k>."""
_METRIC = re.compile(r"metrics?|benchmarks?|指标|评测指标", re.IGNORECASE)
_NO_SCORE = re.compile(
    r"question|sample|repeat|differ|delta|interval|margin|verdict|ratio|题|重复|差|区间|界|结论", re.IGNORECASE
)
"""Columns with other numbers than scores, by their headers."""
_NUMBER = re.compile(r"(\d+(?:\.\d+)?) ?(%?)")


def scores(page: Page) -> Iterator[Finding]:
    """With a record, the scores are compared with it instead."""
    if page.record is not None:
        return
    for table in page.tables:
        if _METRIC.fullmatch(table.rows[0][0].strip("*")):
            yield from _metrics(table)
            yield from _values(table)


def _metrics(table: Table) -> Iterator[Finding]:
    names = [row[0].strip("`* ") for row in table.rows[2:]]
    if any("shot" in name for name in names):
        for at, name in enumerate(names, 2):
            if not FORM.fullmatch(name):
                yield warning(table.line + at, f"metric {name!r} does not match NAME_<n>fewshot_@avg<k>")
    elif names and {name.islower() for name in names} == {True, False}:
        mixed = ", ".join(sorted({next(name for name in names if name.islower() is low) for low in (True, False)}))
        yield warning(table.line, f"metrics are spelled in several ways: {mixed}")


def _values(table: Table) -> Iterator[Finding]:
    """A score of exactly 0 stands for a missing one: a model that guesses scores more."""
    found: list[tuple[int, str, float]] = []
    for at, row in enumerate(table.rows[2:], 2):
        for header, cell in zip(table.rows[0][1:], row[1:], strict=False):
            if _NO_SCORE.search(header):
                continue
            if match := _NUMBER.fullmatch(cell.strip("*` ")):
                found.append((at, cell, float(match.group(1))))
                if found[-1][2] == 0:
                    yield Finding(table.line + at, f"a score of {cell}: a missing score is not 0")
    large = [(at, cell) for at, cell, value in found if value > 1]
    if large and any(0 < value <= 1 for *_, value in found):
        at, cell = large[0]
        yield Finding(table.line + at, f"a score of {cell} among fractions of 1")
