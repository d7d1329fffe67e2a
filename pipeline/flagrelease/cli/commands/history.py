"""`flagrelease history CELL`: every attempt at a cell's stages, oldest first."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from flagrelease.cli.display import marked, spell
from flagrelease.cli.shared import options
from flagrelease.cli.text_table import aligned, terminal_width
from flagrelease.config.cell import select_one
from flagrelease.contract.handles import Judged, StageResult
from flagrelease.contract.stage import AnyStage
from flagrelease.contract.units import minute
from flagrelease.releases import rot
from flagrelease.releases.rot import WATCH
from flagrelease.releases.states import without_cell
from flagrelease.releases.yanks import YANK, parse
from flagrelease.run.plan import check_stages
from flagrelease.run.project import open_project
from flagrelease.stages import REMEDY, STAGES
from flagrelease.store.ledger import BASELINE, KEEP, Entry, process_lives

_SAID = (KEEP, YANK, WATCH)
"""Entries that are no attempts at a stage."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt at one stage."""

    at: str
    """When it ended, or began if it has not ended (UTC, ISO 8601)."""
    run: str
    """The id of the run."""
    stage: str
    state: str
    """done, failed, interrupted or running; the verdict of a gate that did not pass; `keep` or `yank` for what a user
    said; `watch` for what a watch found."""
    seconds: float | None
    """Its duration; none if it has not ended."""
    exit_code: int | None
    """That of its error; none without one."""
    summary: str
    """Its result or its error in one line."""


def main(arguments: argparse.Namespace) -> int:
    project = open_project(options(arguments))
    cell = select_one(project.cells, arguments.cell, excluded=True)
    stages = (*STAGES, REMEDY.stage)
    check_stages(arguments.stage, [*(stage.name for stage in stages), BASELINE, KEEP, YANK, WATCH])
    entries = [entry for entry in project.ledger.entries() if entry.cell == cell.id and not _internal(entry)]
    if arguments.stage:
        entries = [entry for entry in entries if entry.stage in arguments.stage]
    shown = attempts(entries, stages)
    if arguments.last is not None:
        shown = shown[max(len(shown) - arguments.last, 0) :]
    if arguments.json:
        output = {"cell": cell.id, "attempts": [asdict(attempt) for attempt in shown]}
        print(json.dumps(output, indent=2, ensure_ascii=False))
    else:
        print(_table(shown) if shown else f"{cell.id}: no attempt is recorded")
    return 0


def _internal(entry: Entry) -> bool:
    """Whether the entry is a note that a run left for later ones, not a baseline evaluation."""
    return entry.stage == BASELINE and not (isinstance(entry.result, dict) and "score" in entry.result)


def attempts(entries: Sequence[Entry], stages: Iterable[AnyStage]) -> list[Attempt]:
    """The attempts in these entries of one cell: an entry that says how an attempt ended replaces the one of its
    beginning."""
    known = {stage.name: stage for stage in stages}
    latest: dict[tuple[str, str, int], Entry] = {}
    begun: dict[tuple[str, str], int] = {}
    for entry in entries:
        number = begun.get((entry.run, entry.stage), 0) + (entry.state == "running")
        begun[entry.run, entry.stage] = number
        latest.pop((entry.run, entry.stage, number), None)
        latest[entry.run, entry.stage, number] = entry
    return [_attempt(entry, known.get(entry.stage)) for entry in latest.values()]


def _attempt(entry: Entry, stage: AnyStage | None) -> Attempt:
    result = stage.result.of(entry) if stage is not None else None
    dead = entry.state == "running" and not process_lives(entry.process)
    return Attempt(
        at=entry.at,
        run=entry.run,
        stage=entry.stage,
        state="interrupted" if dead else _state(entry, result),
        seconds=None if entry.spent is None else round(entry.spent.seconds, 3),
        exit_code=None if entry.error is None else entry.error.code,
        summary=_summary(entry, result).removeprefix(f"{_state(entry, result)}: "),
    )


def _state(entry: Entry, result: StageResult | None) -> str:
    if isinstance(result, Judged) and result.verdict != "PASS":
        return result.verdict
    return entry.stage if entry.stage in _SAID else entry.state


def _summary(entry: Entry, result: StageResult | None) -> str:
    if entry.error is not None:
        what = without_cell(entry.cell, entry.error.what)
        return f"{what}: {entry.error.why}" if entry.error.why else what
    if result is not None:
        return result.summary
    if isinstance(entry.result, dict) and entry.stage == KEEP:
        return f"{entry.result.get('stage')}: {entry.result.get('reason')} (by {entry.result.get('by')})"
    if entry.stage == YANK and (yank := parse(entry.result)) is not None:
        return f"{yank.tag}{' is no longer yanked' if yank.undone else ''}: {yank.reason} (by {yank.by})"
    if entry.stage == WATCH and (found := rot.parse(entry.result)) is not None:
        return f"{found.tag}: " + ("; ".join(each.line for each in found.findings) or "everything holds again")
    if isinstance(entry.result, dict) and "score" in entry.result:
        return f"{entry.result.get('benchmark')}: {entry.result['score']:.3f} on {entry.result.get('chip')}"
    return "written by another version" if entry.state == "done" else ""


def _table(shown: Sequence[Attempt]) -> str:
    rows, run = [], ""
    for each in shown:
        state = each.state if each.state in _SAID else marked(each.state)
        took = "" if each.seconds is None else spell(each.seconds)
        rows.append([each.run if each.run != run else "", minute(each.at), each.stage, state, took, each.summary])
        run = each.run
    heading = ["run", "ended, UTC", "stage", "state", "time", "result"]
    return aligned(heading, rows, right=[4], width=terminal_width(), cut=True)
