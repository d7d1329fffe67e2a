"""`flagrelease explain CELL`: explain a cell's state, with its results, errors and evidence."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence

import msgspec

from flagrelease.cli.commands.status import current
from flagrelease.cli.display import amount, spell
from flagrelease.cli.shared import options
from flagrelease.cli.text_table import terminal_width, wrapped
from flagrelease.config.cell import Cell, select_one
from flagrelease.contract.accuracy_results import Accuracy
from flagrelease.contract.handles import StageResult
from flagrelease.contract.results import Attribution, Kernels, Smoke
from flagrelease.contract.stage import AnyStage, Key, keys
from flagrelease.contract.units import time_text
from flagrelease.errors import FlagreleaseError
from flagrelease.run.plan import since
from flagrelease.run.project import Project, open_project
from flagrelease.stages import REMEDY, STAGES
from flagrelease.store.ledger import Entry, evidence_of


def main(arguments: argparse.Namespace) -> int:
    project = open_project(options(arguments))
    cell = select_one(project.cells, arguments.cell, excluded=True)
    latest = project.latest(cell, (*STAGES, REMEDY.stage))
    rounds = project.job(cell).attributed
    now_keys = _keys(project, cell)
    now = current(project, cell)
    if arguments.json:
        entries = {name: msgspec.to_builtins(entry) for name, entry in latest.items()}
        changed = {
            name: [str(change) for change in differs]
            for name, entry in latest.items()
            if name in now_keys and (differs := since(entry, now_keys[name]))
        }
        kept = {name: msgspec.to_builtins(key.kept) for name, key in now_keys.items() if key.kept is not None}
        output = {
            "cell": cell.id,
            "state": now.state,
            "reason": now.reason,
            "stages": entries,
            "attributed": msgspec.to_builtins(rounds),
            "changed": changed,
            "kept": kept,
        }
        print(json.dumps(output, indent=2, ensure_ascii=False))
        return 0
    _show([f"{cell.id} is {now.state}" + (f": {now.reason}" if now.reason else "")])
    if now.hint:
        _show([f"  next      {now.hint}"])
    for stage in (*STAGES, *(stage for stage in (REMEDY.stage,) if stage.name in latest)):
        print()
        _show(_stage(project, cell, stage, latest.get(stage.name), now_keys.get(stage.name)))
    for attribution in rounds:
        print()
        _show(_round(project, attribution))
    return 0


_WHOLE = ("  key ", "  evidence ", "  | ")
"""Beginnings of lines that are not broken on a terminal, since somebody copies what they have."""


def _show(lines: Sequence[str]) -> None:
    for line in lines:
        indent = 12 if re.match(r"  \w+ ?\w* {2,}", line) else 4
        print(line if line.startswith(_WHOLE) else wrapped(line, terminal_width(), indent))


def _keys(project: Project, cell: Cell) -> Mapping[str, Key]:
    """The current keys; empty if something is not locked, which `plan` reports."""
    try:
        return keys(project.job(cell), (*STAGES, REMEDY.stage), project.ledger)
    except FlagreleaseError:
        return {}


def _round(project: Project, attribution: Attribution) -> list[str]:
    return [
        f"round {attribution.round}: {attribution.gate} failed, and the cell went on without these operators:",
        *(
            f"  ✗ {culprit.operator}{f' together with {culprit.partner}' if culprit.partner else ''}: {culprit.finding}"
            for culprit in attribution.culprits
        ),
        *(f"  evidence  {file.name}  {project.evidence.path(file)}" for file in attribution.evidence),
    ]


def _stage(project: Project, cell: Cell, stage: AnyStage, entry: Entry | None, key: Key | None) -> list[str]:
    if entry is None:
        skipped = stage.skip(project.job(cell))
        return [f"{stage.name}: skipped, {skipped}" if skipped else f"{stage.name}: never run"]
    cost = f" in {spell(entry.spent.seconds)}" if entry.spent else ""
    if entry.spent and entry.spent.moved:
        cost += f", {amount(entry.spent.moved, 'B')} moved"
    lines = [f"{stage.name}: {entry.state}{cost}, {time_text(entry.at)}, run {entry.run}", f"  key       {entry.key}"]
    lines += _since(entry, key)
    if entry.error is not None:
        lines += [f"  what      {entry.error.what}", f"  exit code {entry.error.code} ({entry.error.kind})"]
        lines += [f"  why       {entry.error.why}"] if entry.error.why else []
        lines += [f"  next      {entry.error.hint}"] if entry.error.hint else []
        lines += [f"  | {line}" for line in entry.error.detail.splitlines()]
    result = stage.result.of(entry)
    if entry.state == "done" and result is None:
        lines.append("  result    written by another version; the next run makes it again")
    elif result is not None:
        lines.append(f"  result    {result.summary}")
        lines += _parts(result)
        for file in evidence_of(result):
            lines.append(f"  evidence  {file.name}  {project.evidence.path(file)}")
    return lines


def _since(entry: Entry, key: Key | None) -> list[str]:
    """The changes since the entry was written, and the decision to keep its result in spite of them."""
    if key is None or entry.key == key.key:
        return []
    if entry.parts is None:
        return ["  changed   its inputs; which of them was not recorded at the time"]
    lines = [f"  changed   {change}" for change in since(entry, key)]
    kept = key.kept
    return lines if kept is None else [*lines, f"  kept      {kept.reason} (by {kept.by}, {time_text(kept.at)})"]


def _parts(result: StageResult) -> list[str]:
    """The checks, scores or excluded operators of a result, one line each."""
    match result:
        case Smoke(checks=checks):
            return [f"  {'✓' if check.passed else '✗'} {check.name}: {check.detail}" for check in checks]
        case Accuracy(benchmarks=benchmarks):
            return [f"  {score.verdict} {score.metric}: {score.reason}" for score in benchmarks]
        case Kernels(excluded=excluded):
            return [f"  – {out.operator} is left out, {out.verdict}: {out.reason}" for out in excluded]
    return []
