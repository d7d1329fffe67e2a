"""Render the pages of the index with templates/site. Every value is escaped unless it is markup made here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flagrelease.releases import diff
from flagrelease.releases.facts import Facts, Gate, Point, Score, Speed
from flagrelease.releases.matrix import CellState, Published
from flagrelease.releases.maturity import Maturity, maturity
from flagrelease.releases.rot import Rot
from flagrelease.releases.states import STATES
from flagrelease.run.matrix_state import Evaluation
from flagrelease.site import plots
from flagrelease.site.answers import MOST, Row, table
from flagrelease.site.trends import trends
from flagrelease.verdict.types import Verdict

ON_FRONT = 100
"""Rows of the table in index.html. The others are in files that are loaded when they are looked for."""
IN_FILE = 500
"""Rows of each of these files."""
MOST_IN_GRID = 1500
"""Cells of the matrix beyond which index.html has no grid of it."""
_SHOWN_SCORES = 3
_LAST_FAILURES = 20


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A failed attempt."""

    at: str
    """ISO 8601, UTC."""
    stage: str
    """The stage."""
    what: str
    """What failed."""
    why: str = ""
    """The cause."""
    hint: str = ""
    """What to do."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell with its history."""

    state: CellState
    """Its state."""
    releases: tuple[Published, ...] = ()
    """All of its releases, oldest first."""
    failures: tuple[Failure, ...] = ()
    """Failed attempts, oldest first."""
    rots: tuple[Rot | None, ...] = ()
    """What watches found, oldest first."""
    tried: Evaluation | None = None
    """The newest evaluation, if no release came of it."""
    in_matrix: bool = True
    """Whether matrix.yaml still has it."""

    @property
    def chip(self) -> str:
        """The chip's name."""
        return self.state.cell.partition("/")[0]

    @property
    def model(self) -> str:
        """The model's name."""
        return self.state.cell.partition("/")[2]

    @property
    def headline(self) -> str:
        """The reason for its state, with the stage and the cause if it failed, in one line."""
        parts = [self.state.reason.removeprefix("not published: ")]
        if self.state.state in ("red", "inconclusive"):
            parts = [self.state.stage, *parts, *(failure.why for failure in self.failures[-1:])]
        return ": ".join(filter(None, parts))

    @property
    def page(self) -> str:
        """Its page, relative to the site."""
        return f"cells/{self.state.cell}/index.html"


class Pages:
    """The templates of the site."""

    def __init__(self, folder: Path) -> None:
        environment = Environment(
            loader=FileSystemLoader(folder),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals.update(maturity=_maturity, states=STATES, most=MOST)
        environment.filters.update(
            mb=_size, date=lambda at: at[:10], minute=lambda at: at[:16].replace("T", " "), signed=_signed
        )
        self._environment = environment

    def front(self, cells: Sequence[Cell], more: int, until: str) -> str:
        """index.html with the first rows; `more` files have the others. `until` is the time of the newest entry."""
        counted = {state: sum(cell.state.state == state for cell in cells) for state in STATES}
        return self._render(
            "index.html.j2",
            rows=Markup(self.rows(cells[:ON_FRONT])),  # noqa: S704 - rendered with escaping
            counted={state: count for state, count in counted.items() if count},
            chips=sorted({cell.chip for cell in cells}),
            models=sorted({cell.model for cell in cells}),
            grid=_grid(cells),
            total=len(cells),
            releases=sum(len(cell.releases) for cell in cells),
            more=more,
            until=until,
        )

    def rows(self, cells: Sequence[Cell]) -> str:
        """Rows of the table."""
        return self._render("rows.html.j2", cells=[(cell, _row(cell)) for cell in cells])

    def cell(self, cell: Cell, answers: Mapping[str, str], tried: Mapping[str, str]) -> str:
        """The page of a cell. `answers` has the pages of the newest release's answers by benchmark, `tried` those of an
        evaluation that was not released."""
        newest = cell.state.release
        facts = None if newest is None else newest.facts
        return self._render(
            "cell.html.j2",
            cell=cell,
            release=newest,
            facts=facts,
            scores=_scores(None if facts is None else facts.accuracy),
            points=_points(None if facts is None else facts.speed),
            answers=answers,
            tried_scores=_scores(None if cell.tried is None else cell.tried.accuracy),
            tried_points=_points(None if cell.tried is None else cell.tried.speed),
            tried_answers=tried,
            plots=trends(cell.releases),
            history=_history(cell.releases),
            failures=cell.failures[::-1][:_LAST_FAILURES],
        )

    def answers(self, cell: Cell, score: Score, rows: Sequence[Row]) -> str:
        """The page of the answers to one benchmark."""
        counts = {change: sum(row.change == change for row in rows) for change in ("lost", "gained")}
        return self._render("answers.html.j2", cell=cell, score=score, rows=rows, table=table(rows), counts=counts)

    def _render(self, name: str, **values: Any) -> str:
        return self._environment.get_template(name).render(**values)


def _maturity(facts: Facts | None) -> Maturity | None:
    return None if facts is None else maturity(facts)


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def _signed(number: float) -> str:
    text = f"{number:+.3f}".replace("-", "−")
    return "0.000" if text[1:] == "0.000" else text


def _row(cell: Cell) -> dict[str, Any]:
    """What a row shows of the newest release."""
    facts = None if cell.state.release is None else cell.state.release.facts
    if facts is None:
        return {"facts": None}
    worst_first = sorted(
        facts.accuracy.benchmarks, key=lambda row: (row.verdict is Verdict.PASS, row.difference or 0.0)
    )
    return {
        "facts": facts,
        "scores": worst_first[:_SHOWN_SCORES],
        "other_scores": max(len(worst_first) - _SHOWN_SCORES, 0),
        "slowest": None if facts.speed is None else facts.speed.slowest,
    }


def _grid(cells: Sequence[Cell]) -> dict[str, dict[str, Cell]] | None:
    """The cells by chip and model; None if there are too many to show."""
    if len(cells) > MOST_IN_GRID:
        return None
    found: dict[str, dict[str, Cell]] = {}
    for cell in sorted(cells, key=lambda each: each.state.cell):
        found.setdefault(cell.chip, {})[cell.model] = cell
    return found


def _scores(gate: Gate | None) -> list[tuple[Score, Markup | None]]:
    return [] if gate is None else [(row, _score_bar(row)) for row in gate.benchmarks]


def _points(speed: Speed | None) -> list[tuple[Point, Markup]]:
    return [] if speed is None else [(row, _bar(row)) for row in speed.points]


def _score_bar(row: Score) -> Markup | None:
    if row.difference is None or row.interval90 is None:
        return None
    low, high = row.interval90
    title = f"{row.difference:+.3f}, 90 % interval {low:+.3f} to {high:+.3f}, margin {row.margin:.3f}"
    bad = row.verdict is not Verdict.PASS
    return plots.interval(row.difference, low, high, zero=0.0, limit=-row.margin, title=title, bad=bad)


def _bar(row: Point) -> Markup:
    low, high = row.interval95
    title = f"{row.ratio:.3f} of native, 95 % interval {low:.3f} to {high:.3f}, gate {row.gate:.2f}"
    bad = row.verdict is not Verdict.PASS
    return plots.interval(row.ratio, low, high, zero=1.0, limit=row.gate, title=title, bad=bad)


def _history(releases: Sequence[Published]) -> list[tuple[Published, Facts | None, list[str]]]:
    """The releases, newest first, each with what changed since the one before it."""
    rows: list[tuple[Published, Facts | None, list[str]]] = []
    before: Facts | None = None
    for each in releases:
        changes = diff.releases(before, each.facts) if before is not None and each.facts is not None else ()
        rows.append((each, each.facts, [text for change in changes if (text := _changed(change))]))
        before = each.facts or before
    return rows[::-1]


def _changed(change: diff.Change) -> str:
    """A change in a few words; empty if it says nothing that the row does not show."""
    match change.area:
        case "component":
            return f"{change.name} {change.before or '–'} → {change.after or '–'}"
        case "operator":
            return f"{change.name} {'added' if change.after else 'removed'}"
        case "score" | "speed" if change.meaning in ("worse", "better", "added", "removed", "not comparable"):
            return f"{change.area} {change.name}: {change.meaning}"
        case "weights":
            return "other weights"
        case "image" if change.name == "base image":
            return "other base image"
        case _:
            return ""
