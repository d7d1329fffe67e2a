"""Check that every line of a release's card follows from its record."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from pathlib import Path

from flagrelease.stages.card import charts, chinese, exports, fonts, lint, render
from flagrelease.stages.card.checks.page import Page
from flagrelease.stages.card.files import README, README_ZH
from flagrelease.stages.card.record import Record
from flagrelease.stages.card.stage import STAGE
from flagrelease.verification.findings import Check, agrees, differs, not_checked
from flagrelease.verification.release import Release

__all__ = ["checks", "pictures"]

_CHECK = "card"
_NUMBER = re.compile(r"\d[\d,.]*\d|\d")
_EQUAL_TO_THE_RECORD = ("scores equal the record", "speeds equal the record", "operators equal the record")
_MOST = 20
"""Lines that are named one by one."""
_LONGEST = 120


def checks(release: Release, templates: Path) -> Iterator[Check]:
    """Render the card and what is derived from the record again, and compare. If template or code have changed since,
    only the card's numbers can be."""
    record = release.record
    same_code = record.rendered_by == STAGE.code_version(templates)
    pages: list[tuple[str, Callable[[Record, Path], str]]] = [(README, render.render)]
    if same_code or (release.folder / README_ZH).exists():
        pages.append((README_ZH, chinese.render_card))
    for name, rendered in pages:
        try:
            text = (release.folder / name).read_bytes().decode("utf-8", errors="replace")
        except OSError as error:
            yield differs(_CHECK, name, f"cannot be read: {error.strerror}")
            continue
        expected = rendered(record, templates).replace(record.tag, release.tag)
        if text == expected:
            yield agrees(_CHECK, name, f"rendered again from the record, all {len(text.splitlines())} lines are equal")
        elif same_code:
            yield from _cut(name, list(_lines(name, text, expected)))
        else:
            yield from _numbers(name, text, expected, release)
    if same_code:
        for name, data in exports.files(record).items():
            path = release.folder / name
            same = path.is_file() and path.read_bytes() == data
            yield (
                agrees(_CHECK, name, "written again from the record, equal")
                if same
                else differs(_CHECK, name, "is not what the record gives")
            )


def _lines(name: str, text: str, expected: str) -> Iterator[Check]:
    """Each line that is not the one that the record gives."""
    given, wanted = text.split("\n"), expected.split("\n")
    for kind, start, end, first, last in SequenceMatcher(None, given, wanted, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        for at in range(max(end - start, last - first)):
            subject = f"{name}:{min(start + at, max(end - 1, start)) + 1}"
            here = given[start + at] if start + at < end else None
            there = wanted[first + at] if first + at < last else None
            yield differs(_CHECK, subject, _compared(here, there))


def _compared(here: str | None, there: str | None) -> str:
    if here is None:
        return f"the line {_short(there)} is missing"
    if there is None:
        return f"{_short(here)} is not in the record's card"
    start = next((at for at, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), min(len(here), len(there)))
    start = max(here.rfind(" ", 0, start) + 1, 0)
    return f"has {_short(here[start:])}, the record gives {_short(there[start:])}"


def _short(text: str | None) -> str:
    words = (text or "").strip()
    return repr(words if len(words) <= _LONGEST else f"{words[: _LONGEST - 1]}…")


def _numbers(name: str, text: str, expected: str, release: Release) -> Iterator[Check]:
    """The tables of numbers field by field; numbers in other lines only as far as today's template has them."""
    page = Page(text, release.record, {})
    found = list(lint.findings(page, _EQUAL_TO_THE_RECORD))
    yield from _cut(name, [differs(_CHECK, f"{name}:{finding.line}", finding.text) for finding in found])
    known = set(_NUMBER.findall(expected))
    unknown = [
        (at, number)
        for at, line in enumerate(text.splitlines(), 1)
        for number in _NUMBER.findall(line)
        if number not in known
    ]
    if not found:
        yield agrees(_CHECK, name, "the tables of scores, speeds and operators are the record's")
    subjects = [line.subject.rpartition(":")[2] for line in _lines(name, text, expected)]
    several = f"lines {', '.join(subjects[:_MOST])}" if len(subjects) > 1 else f"line {subjects[0]}"
    more = f" and {len(subjects) - _MOST} more" if len(subjects) > _MOST else ""
    why = (
        f"differs in {several}{more} from what this version renders: it was edited, or template and code have changed "
        "since; the version that made the release can tell"
    )
    listed = ", ".join(f"{number} in line {at}" for at, number in unknown[:_MOST])
    yield not_checked(_CHECK, name, f"{why}; numbers that today's card has not: {listed}" if listed else why)


def _cut(name: str, found: list[Check]) -> Iterator[Check]:
    yield from found[:_MOST]
    if len(found) > _MOST:
        yield differs(_CHECK, name, f"{len(found) - _MOST} more lines differ")


def pictures(release: Release) -> Iterator[Check]:
    """The pictures, drawn again; other versions of the drawing library give other bytes for the same numbers."""
    record = release.record
    drawn: list[tuple[str, bytes]] = []
    fonts.find()
    if record.accuracy.benchmarks:
        drawn.append((charts.SCORES, charts.scores(record)))
    if record.speed is not None:
        drawn.append((charts.SPEED, charts.speed(record, record.speed)))
    same = []
    for name, expected in drawn:
        path = release.folder / name
        if not path.is_file():
            yield differs(_CHECK, name, "missing; the card shows it")
        elif path.read_bytes() == expected:
            same.append(name)
        else:
            why = "drawn from the record it has other bytes: it is another picture, or drawn by other versions"
            yield not_checked(_CHECK, name, why)
    if same:
        yield agrees(_CHECK, ", ".join(same), "drawn again from the record, equal")
