"""`flagrelease explain CELL`: why a cell is as it is, with everything that its evidence says."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping

import msgspec

from flagrelease.cli.commands.status import status
from flagrelease.cli.display import amount, spell
from flagrelease.cli.shared import options
from flagrelease.config.cell import Cell, select
from flagrelease.contract.accuracy_results import Accuracy
from flagrelease.contract.handles import StageResult
from flagrelease.contract.results import Attribution, Kernels, Smoke
from flagrelease.contract.stage import AnyStage, Key, keys
from flagrelease.errors import FlagreleaseError
from flagrelease.run.plan import since
from flagrelease.run.project import Project, project
from flagrelease.stages import REMEDY, STAGES
from flagrelease.store.ledger import Entry, evidence_of


def main(arguments: argparse.Namespace) -> int:
    everything = project(options(arguments))
    cell = select(everything.cells, [arguments.cell], [], [])[0]
    latest = everything.latest(cell, (*STAGES, REMEDY.stage))
    rounds = everything.job(cell).attributed
    now_keys = _keys(everything, cell)
    if arguments.json:
        entries = {name: msgspec.to_builtins(entry) for name, entry in latest.items()}
        changed = {
            name: [str(one) for one in differs]
            for name, entry in latest.items()
            if name in now_keys and (differs := since(entry, now_keys[name]))
        }
        kept = {name: msgspec.to_builtins(key.kept) for name, key in now_keys.items() if key.kept is not None}
        told = {
            "cell": cell.id,
            "stages": entries,
            "attributed": msgspec.to_builtins(rounds),
            "changed": changed,
            "kept": kept,
        }
        print(json.dumps(told, indent=2, ensure_ascii=False))
        return 0
    now = status(cell, latest)
    print(f"{cell.id} is {now.state}" + (f": {now.reason}" if now.reason else ""))
    for stage in (*STAGES, *(one for one in (REMEDY.stage,) if one.name in latest)):
        print()
        print("\n".join(_stage(everything, cell, stage, latest.get(stage.name), now_keys.get(stage.name))))
    for found in rounds:
        print()
        print("\n".join(_round(everything, found)))
    return 0


def _keys(everything: Project, cell: Cell) -> Mapping[str, Key]:
    """As they are now; none where something is not locked, which `plan` says."""
    try:
        return keys(everything.job(cell), (*STAGES, REMEDY.stage), everything.ledger)
    except FlagreleaseError:
        return {}


def _round(everything: Project, found: Attribution) -> list[str]:
    return [
        f"round {found.round}: {found.gate} failed, and without what is named here the cell went on",
        *(
            f"  ✗ {one.operator}{f' beside {one.partner}' if one.partner else ''}: {one.finding}"
            for one in found.culprits
        ),
        *(f"  evidence  {kept.name}  {everything.evidence.path(kept)}" for kept in found.evidence),
    ]


def _stage(everything: Project, cell: Cell, stage: AnyStage, entry: Entry | None, key: Key | None) -> list[str]:
    if entry is None:
        skipped = stage.skip(everything.job(cell))
        return [f"{stage.name}: skipped, {skipped}" if skipped else f"{stage.name}: never run"]
    cost = f" in {spell(entry.spent.seconds)}" if entry.spent else ""
    if entry.spent and entry.spent.moved:
        cost += f", {amount(entry.spent.moved, 'B')} moved"
    lines = [f"{stage.name}: {entry.state}{cost}, {entry.at}, run {entry.run}", f"  key       {entry.key}"]
    lines += _since(entry, key)
    if entry.error is not None:
        lines += [f"  what      {entry.error.what}", f"  exit code {entry.error.code} ({entry.error.kind})"]
        lines += [f"  why       {entry.error.why}"] if entry.error.why else []
        lines += [f"  next      {entry.error.hint}"] if entry.error.hint else []
        lines += [f"  | {line}" for line in entry.error.detail.splitlines()]
    if entry.state == "done":
        result = stage.result.decode(entry.result)
        lines.append(f"  result    {result.summary}")
        lines += _parts(result)
        for kept in evidence_of(result):
            lines.append(f"  evidence  {kept.name}  {everything.evidence.path(kept)}")
    return lines


def _since(entry: Entry, key: Key | None) -> list[str]:
    """What has changed since, and whether the result is kept although it has."""
    if key is None or entry.key == key.key:
        return []
    if entry.parts is None:
        return ["  changed   its inputs; it was recorded before parts were kept"]
    lines = [f"  changed   {one}" for one in since(entry, key)]
    kept = key.kept
    return lines if kept is None else [*lines, f"  kept      {kept.reason} (by {kept.by}, {kept.at})"]


def _parts(result: StageResult) -> list[str]:
    """What a result consists of, a line each, where it has parts."""
    match result:
        case Smoke(checks=checks):
            return [f"  {'✓' if check.passed else '✗'} {check.name}: {check.detail}" for check in checks]
        case Accuracy(benchmarks=benchmarks):
            return [f"  {score.verdict} {score.metric}: {score.reason}" for score in benchmarks]
        case Kernels(excluded=excluded):
            return [f"  – {out.operator} is left out, {out.verdict}: {out.reason}" for out in excluded]
    return []
