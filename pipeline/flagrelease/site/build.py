"""Write the index from a ledger and the records of its releases."""

from __future__ import annotations

import gc
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from flagrelease.errors import ConfigError
from flagrelease.releases import matrix, rot
from flagrelease.releases.facts import Gate
from flagrelease.releases.matrix import CellState
from flagrelease.releases.states import STATES, without_cell
from flagrelease.run.matrix_state import CellLog, cell_state, evaluation, published
from flagrelease.site import answers, feed
from flagrelease.site.feed import Event
from flagrelease.site.pages import IN_FILE, ON_FRONT, Cell, Failure, Pages
from flagrelease.site.two import in_two
from flagrelease.store.files import translate_disk_errors, write_atomic
from flagrelease.store.workspace import Workspace

MARK = ".flagrelease-index"
"""A file in each index, without which a folder that is not empty is not overwritten."""
_CELL = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*/[a-z0-9]+(?:[._-][a-z0-9]+)*")
_UNDECIDED = ("red", "inconclusive", "partial")
"""States whose newest evaluation may not be that of a release."""
_COPIED = ("site.css", "site.js")


@dataclass(frozen=True, kw_only=True)
class Built:
    """What was written."""

    cells: int
    """Cells."""
    releases: int
    """Releases."""
    front: int
    """Bytes of index.html."""


def build(
    excluded: Mapping[str, str],
    logs: Mapping[str, CellLog],
    workspace: Workspace,
    output: Path,
    *,
    templates: Path,
    url: str,
) -> Built:
    """Write the index of these cells to the folder `output`, which is replaced if it is an index.

    `excluded` has every cell of the matrix with the reason why it is excluded, or nothing. Raises ConfigError if
    `output` has other files in it, EnvironmentFault if it cannot be written.
    """
    _check(output)
    gc.disable()  # hundreds of thousands of objects without reference cycles
    try:
        return _build(excluded, logs, workspace, output, Pages(templates), templates, url)
    finally:
        gc.enable()


def _build(
    excluded: Mapping[str, str],
    logs: Mapping[str, CellLog],
    workspace: Workspace,
    output: Path,
    pages: Pages,
    templates: Path,
    url: str,
) -> Built:
    cells = sorted(_cells(excluded, logs, workspace), key=_order)
    with translate_disk_errors(f"writing {output}"):
        shutil.rmtree(output / "cells", ignore_errors=True)
        shutil.rmtree(output / "rows", ignore_errors=True)
        output.mkdir(parents=True, exist_ok=True)
        (output / MARK).touch()
        for name in _COPIED:
            shutil.copyfile(templates / name, output / name)
        in_two(cells, lambda cell: _write_cell(cell, pages, workspace, output))
        later = [cells[start : start + IN_FILE] for start in range(ON_FRONT, len(cells), IN_FILE)]
        for number, chunk in enumerate(later):
            _write(output / f"rows/{number}.js", f"flagreleaseRows({number}, {json.dumps(pages.rows(chunk))});\n")
        until = max((at for log in logs.values() for at in _times(log)), default="")
        front = pages.front(cells, len(later), until)
        _write(output / "feed.xml", feed.render(feed.newest(e for cell in cells for e in _events(cell)), url))
        _write(output / "cells.json", matrix.dumps([cell.state for cell in cells]).decode())
        write_atomic(output / "index.html", front.encode())
    return Built(cells=len(cells), releases=sum(len(cell.releases) for cell in cells), front=len(front.encode()))


def _check(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is not a directory", hint="choose another --output DIR")
    if output.is_dir() and any(output.iterdir()) and not (output / MARK).exists():
        raise ConfigError(f"{output} has files that are not of an index", hint="choose another --output DIR")


def _cells(excluded: Mapping[str, str], logs: Mapping[str, CellLog], workspace: Workspace) -> Iterator[Cell]:
    """All cells of the matrix and of the ledger. A ledger's cell whose name cannot be one is left out: the name becomes
    a path."""
    for name in dict.fromkeys((*excluded, *logs)):
        log = logs.get(name)
        if log is None:
            reason = excluded[name]
            state = CellState(cell=name, state="excluded" if reason else "new", reason=reason or "never run")
            yield Cell(state=state)
        elif _CELL.fullmatch(name):
            yield _cell(log, workspace, excluded.get(name))


def _cell(log: CellLog, workspace: Workspace, excluded: str | None) -> Cell:
    releases = tuple(published(log, workspace))
    failures = tuple(
        Failure(
            at=line.at,
            stage=line.stage,
            what=without_cell(log.cell, line.error.what),
            why=line.error.why,
            hint=line.error.hint,
        )
        for line in log.failures
        if line.error is not None
    )
    state = cell_state(log, releases, excluded=excluded or "")
    tried = evaluation(log, workspace) if state.state in _UNDECIDED else None
    if tried is not None and state.release is not None and tried.at <= state.release.at:
        tried = None
    return Cell(
        state=state,
        releases=releases,
        failures=failures,
        rots=tuple(log.rots),
        tried=tried,
        in_matrix=excluded is not None,
    )


def _times(log: CellLog) -> Iterator[str]:
    yield from (line.at for line in log.latest.values())
    yield from (each.at for each in log.rots if each is not None)


def _order(cell: Cell) -> tuple[int, str]:
    return STATES.index(cell.state.state), cell.state.cell


def _write_cell(cell: Cell, pages: Pages, workspace: Workspace, output: Path) -> None:
    folder = output / "cells" / cell.state.cell
    folder.mkdir(parents=True, exist_ok=True)
    linked: dict[str, str] = {}
    tried: dict[str, str] = {}
    newest = cell.state.release
    if newest is not None and newest.facts is not None:
        sides = answers.of_release(workspace.root / newest.folder)
        linked = _write_answers(cell, newest.facts.accuracy, sides, "answers", pages, folder)
    if cell.tried is not None and cell.tried.answers is not None:
        tried = _write_answers(cell, cell.tried.accuracy, cell.tried.answers, "tried", pages, folder)
    _write(folder / "index.html", pages.cell(cell, linked, tried))
    history = {"version": matrix.VERSION, "cell": cell.state, "releases": cell.releases}
    (folder / "history.json").write_bytes(msgspec.json.encode(history))


def _write_answers(
    cell: Cell, gate: Gate, sides: tuple[Path, Path], name: str, pages: Pages, folder: Path
) -> dict[str, str]:
    """Write the pages of the answers of an evaluation; their names by benchmark."""
    written: dict[str, str] = {}
    found = answers.read(sides)
    for number, score in enumerate(gate.benchmarks):
        if rows := found.get(score.benchmark):
            written[score.benchmark] = f"{name}-{number}.html"
            _write(folder / written[score.benchmark], pages.answers(cell, score, rows))
    return written


def _events(cell: Cell) -> Iterator[Event]:
    """Releases, the yank of the newest one, what watches found, and failures of a cell that has been released."""
    name = cell.state.cell
    for each in cell.releases:
        verdict = "" if each.facts is None else f"{each.facts.verdict.value}; "
        text = f"{verdict}image {each.image}" + (f"; yanked since: {each.yanked}" if each.yanked else "")
        title = f"{name} released" + (" (yanked since)" if each.yanked else "")
        yield Event(at=each.at, title=title, text=text, link=cell.page, name=f"release {name} {each.tag}")
    if cell.state.state == "yanked":
        title = f"{name} yanked"
        yanked = cell.state
        yield Event(at=yanked.at, title=title, text=yanked.reason, link=cell.page, name=f"yank {name} {yanked.at}")
    for found, new, mended in rot.changes(cell.rots):
        if not new and not mended:  # another cause of the same finding
            continue
        text = "; ".join([*(each.line for each in new), *(f"holds again: {each.what}" for each in mended)])
        title = f"{name} holds again in part" if found.findings else f"{name} holds again"
        title = f"{name} is no longer as published" if new else title
        yield Event(at=found.at, title=title, text=text, link=cell.page, name=f"watch {name} {found.tag} {found.at}")
    first = min((each.at for each in cell.releases if each.at), default="")
    for failure in cell.failures:
        if first and failure.at > first:
            text = f"{failure.what}: {failure.why}" if failure.why else failure.what
            title = f"{name} failed at {failure.stage} after it had been released"
            yield Event(at=failure.at, title=title, text=text, link=cell.page, name=f"failure {name} {failure.at}")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
