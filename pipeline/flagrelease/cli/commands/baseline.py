"""`flagrelease baseline`: list the baseline evaluations that cells share, or take one over from elsewhere."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from flagrelease.cli.shared import options
from flagrelease.cli.text_table import aligned
from flagrelease.config.cell import Cell, select
from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.errors import ConfigError
from flagrelease.evaluation import baselines
from flagrelease.evaluation.import_baseline import Fitting, answers_of, fit
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.meter import Meter
from flagrelease.ports.progress import Silent
from flagrelease.run.cell_run import new_run_id
from flagrelease.run.project import Project, open_project, real_ports
from flagrelease.stages import accuracy
from flagrelease.store.ledger import Entry, process_id
from flagrelease.verdict.samples import dump


def main(arguments: argparse.Namespace) -> int:
    project = open_project(options(arguments))
    if arguments.action == "list":
        return _list(project, as_json=arguments.json)
    if arguments.path is None or arguments.cell is None:
        raise ConfigError(
            "`baseline import` needs PATH and CHIP/MODEL", hint="the cell says of which model, and compared with what"
        )
    cell = select(project.cells, [arguments.cell], [], [])[0]
    kept = _take_over(project, cell, arguments.path)
    if arguments.json:
        print(json.dumps({"baselines": [_told(entry, one) for entry, one in kept]}, indent=2, ensure_ascii=False))
    else:
        print(_table(kept))
    return 0


def _take_over(project: Project, cell: Cell, path: Path) -> list[tuple[Entry, baselines.StoredBaseline]]:
    """Every benchmark of PATH that the cell's profile asks goes into the ledger; none, where one does not fit."""
    ports = real_ports(project.workspace)
    run_id = new_run_id()
    context = Context(
        run_id=run_id,
        workspace=project.workspace,
        evidence=project.evidence,
        ports=ports,
        progress=Silent(),
        meter=Meter(ports.clock),
    )
    answers = answers_of(path, cell)
    sheets = accuracy.build_specs(project.job(cell), context)
    weights = _weights(project, cell)
    return [_keep(project, cell, weights, one, run_id, str(path)) for one in fit(answers, weights.digest, sheets)]


@dataclass(frozen=True)
class _Weights:
    digest: str


def _weights(project: Project, cell: Cell) -> _Weights:
    """Those that are served: the locked ones, or what the weights stage made of them. Raises ConfigError."""
    project.lock.require("models", cell.model_name)
    if not cell.model.serve.convert:
        return _Weights(project.lock.models[cell.model_name].digest)
    entry = project.ledger.last_done(cell.id, "weights")
    if entry is None:
        raise ConfigError(
            f"the weights of {cell.id} are not known yet",
            why="they are converted before they are served",
            hint=f"`flagrelease run {cell.id} --only weights` makes them",
        )
    return _Weights(msgspec.convert(entry.result, results.Weights).digest)


def _keep(
    project: Project, cell: Cell, weights: _Weights, one: Fitting, run_id: str, source: str
) -> tuple[Entry, baselines.StoredBaseline]:
    lines = "".join(map(dump, one.samples)).encode()
    evidence = project.evidence.put(f"accuracy/{cell.baseline.stack}.{one.sheet.benchmark}.jsonl", lines)
    stored = baselines.stored(cell, weights, one.sheet, one.samples, evidence, run_id, source)
    entry = Entry(
        at=SystemClock().now().isoformat(timespec="seconds"),
        run=run_id,
        cell=cell.id,
        stage="baseline",
        state="done",
        key=baselines.key(cell, weights, one.sheet),
        process=process_id(),
        result=msgspec.to_builtins(stored),
    )
    project.ledger.append(entry)
    return entry, stored


def _list(project: Project, *, as_json: bool) -> int:
    kept = list(baselines.known(project.ledger.entries()).values())
    if as_json:
        print(json.dumps({"baselines": [_told(entry, one) for entry, one in kept]}, indent=2, ensure_ascii=False))
    elif kept:
        print(_table(kept))
    else:
        print(
            "no baseline is kept; a run makes one on the chip that it is to come from, `baseline import` takes one over"
        )
    return 0


def _told(entry: Entry, one: baselines.StoredBaseline) -> dict[str, Any]:
    return {"key": entry.key, "cell": entry.cell, "at": entry.at, **asdict(one)}


def _table(kept: Sequence[tuple[Entry, baselines.StoredBaseline]]) -> str:
    rows = [
        [
            one.benchmark,
            entry.cell.rpartition("/")[2],
            f"{one.stack} on {one.chip}",
            f"{one.n:,}",
            f"{one.repeats:g}",
            f"{one.score:.3f}",
            str(one.errors),
            one.source or "evaluated here",
            entry.at[:16].replace("T", " "),
        ]
        for entry, one in kept
    ]
    return aligned(["benchmark", "model", "baseline", "n", "repeats", "score", "errors", "from", "at"], rows)
