"""The answers behind a benchmark's verdict: both sides, question by question, those that differ first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from markupsafe import Markup, escape

MOST = 1000
"""Rows of a page. Those left out are in the evidence of the release."""
_SIDES = ("accuracy_baseline.samples.jsonl", "accuracy_samples.jsonl")


class Sample(msgspec.Struct):
    """An answer, as it is stored."""

    benchmark: str
    """Its name in matrix.yaml."""
    subset: str
    """A part of the benchmark."""
    question_id: str
    """Unique in the subset."""
    repeat: int
    """Counted from 0."""
    correct: float | bool
    """The grade."""
    answer: str | None = None
    """The answer that was extracted."""
    finish_reason: str | None = None
    """As reported by the server."""
    error: str | None = None
    """Why it failed."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question, or one repeat of it."""

    question: str
    """SUBSET/ID, with the repeat if there are several."""
    baseline: Sample | None
    """The baseline's answer; none if it was not asked."""
    candidate: Sample
    """The release's answer."""

    @property
    def change(self) -> str:
        """How the grade changed: lost, gained, or neither."""
        if self.baseline is None or self.baseline.correct == self.candidate.correct:
            return ""
        return "lost" if self.candidate.correct < self.baseline.correct else "gained"


def table(rows: Sequence[Row]) -> Markup:
    """The rows of the page's table. Not by a template, which takes five times as long: there may be a million."""
    return Markup("\n".join(map(_row, rows[:MOST])))  # noqa: S704 - all text in it is escaped


def _row(row: Row) -> str:
    change = f'<span class="badge c-{row.change}">{row.change}</span>' if row.change else ""
    sides = f"{_given(row.baseline)}{_given(row.candidate)}"
    return f"<tr><td><code>{escape(row.question)}</code></td>{sides}<td>{change}</td></tr>"


def _given(sample: Sample | None) -> str:
    if sample is None:
        return "<td>–</td>"
    grade = "right" if sample.correct == 1 else "wrong" if sample.correct == 0 else "part"
    said = escape(sample.answer) if sample.answer else "<em>no answer</em>"
    if sample.error:
        said = f"<em>{escape(sample.error)}</em>"
    truncated = " <em>truncated</em>" if sample.finish_reason == "length" else ""
    return f'<td class="{grade}">{said}{truncated}</td>'


def of_release(folder: Path) -> tuple[Path, Path]:
    """The files in the folder of a release."""
    return folder / "evidence/accuracy" / _SIDES[0], folder / "evidence/accuracy" / _SIDES[1]


def read(sides: tuple[Path, Path]) -> dict[str, list[Row]]:
    """The rows by benchmark, from the files of baseline and candidate: lost, gained, other answers, the same answers.

    Nothing if the evidence is not there or was written by another version."""
    try:
        before, after = ({_key(sample): sample for sample in _samples(path)} for path in sides)
    except (OSError, ValueError):
        return {}
    rows: dict[str, list[Row]] = {}
    for key, sample in after.items():
        name = f"{sample.subset}/{sample.question_id}" + (f" #{sample.repeat + 1}" if sample.repeat else "")
        rows.setdefault(sample.benchmark, []).append(Row(question=name, baseline=before.get(key), candidate=sample))
    for each in rows.values():
        each.sort(key=_order)
    return rows


def _samples(path: Path) -> Iterator[Sample]:
    decoder = msgspec.json.Decoder(Sample)
    with path.open("rb") as stream:
        for line in stream:
            yield decoder.decode(line)


def _key(sample: Sample) -> tuple[str, str, str, int]:
    return sample.benchmark, sample.subset, sample.question_id, sample.repeat


def _order(row: Row) -> int:
    changes = {"lost": 0, "gained": 1}
    same = row.baseline is not None and row.baseline.answer == row.candidate.answer
    return changes.get(row.change, 3 if same else 2)
