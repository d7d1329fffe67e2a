"""`flagrelease baseline`: list the baseline evaluations that cells share, or import one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from flagrelease.cli.shared import options
from flagrelease.cli.text_table import figures, terminal_width, wrapped
from flagrelease.config.cell import Cell, select_one
from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.units import minute
from flagrelease.errors import ConfigError
from flagrelease.evaluation import baselines
from flagrelease.evaluation.import_baseline import Fitting, answers_of, fit
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.meter import Meter
from flagrelease.ports.progress import Silent
from flagrelease.run.cell_run import new_run_id
from flagrelease.run.project import Project, open_project, real_ports
from flagrelease.stages.accuracy.run import build_specs
from flagrelease.store.ledger import Entry, process_id
from flagrelease.verdict.samples import dump


def main(arguments: argparse.Namespace) -> int:
    project = open_project(options(arguments))
    if arguments.action == "list":
        return _list(project, as_json=arguments.json)
    if arguments.path is None or arguments.cell is None:
        raise ConfigError(
            "`baseline import` needs PATH and CHIP/MODEL",
            hint="the cell determines the model and the conditions that the answers must match",
        )
    cell = select_one(project.cells, arguments.cell)
    imported = _import(project, cell, arguments.path)
    if arguments.json:
        print(_json(imported))
    else:
        print(_table(imported))
    return 0


def _import(project: Project, cell: Cell, path: Path) -> list[tuple[Entry, baselines.StoredBaseline]]:
    """Store every benchmark of PATH that the cell's profile asks in the ledger, or none if one of them does not fit."""
    ports = real_ports(project.workspace, project.registry)
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
    specs = build_specs(project.job(cell), context)
    weights = _weights(project, cell)
    fitting = fit(answers, weights.digest, specs)
    return [_store(project, cell, weights, answer_set, run_id, str(path)) for answer_set in fitting]


@dataclass(frozen=True)
class _Weights:
    digest: str


def _weights(project: Project, cell: Cell) -> _Weights:
    """The weights that are served: the locked ones, or those that the weights stage converted. Raises ConfigError if
    they are not locked or not converted yet."""
    project.lock.require("models", cell.model_name)
    if not cell.model.serve.convert:
        return _Weights(project.lock.models[cell.model_name].digest)
    entry = project.ledger.last_done(cell.id, "weights")
    if entry is None:
        raise ConfigError(
            f"the weights of {cell.id} are not known yet",
            why="they are converted before they are served",
            hint=f"`flagrelease run {cell.id} --only weights` converts them",
        )
    return _Weights(msgspec.convert(entry.result, results.Weights).digest)


def _store(
    project: Project, cell: Cell, weights: _Weights, answer_set: Fitting, run_id: str, source: str
) -> tuple[Entry, baselines.StoredBaseline]:
    lines = "".join(map(dump, answer_set.samples)).encode()
    evidence = project.evidence.put(f"accuracy/{cell.baseline.stack}.{answer_set.spec.benchmark}.jsonl", lines)
    stored = baselines.stored(cell, weights, answer_set.spec, answer_set.samples, evidence, run_id, source)
    entry = Entry(
        at=SystemClock().now().isoformat(timespec="seconds"),
        run=run_id,
        cell=cell.id,
        stage="baseline",
        state="done",
        key=baselines.key(cell, weights, answer_set.spec),
        process=process_id(),
        result=msgspec.to_builtins(stored),
    )
    project.ledger.append(entry)
    return entry, stored


def _list(project: Project, *, as_json: bool) -> int:
    known = list(baselines.known(project.ledger.entries()).values())
    if as_json:
        print(_json(known))
    elif known:
        print(_table(known))
    else:
        text = "no baseline is stored; run a cell of the baseline's chip, or use `baseline import`"
        print(wrapped(text, terminal_width()))
    return 0


def _json(known: Sequence[tuple[Entry, baselines.StoredBaseline]]) -> str:
    rows = [{"key": entry.key, "cell": entry.cell, "at": entry.at, **asdict(stored)} for entry, stored in known]
    return json.dumps({"baselines": rows}, indent=2, ensure_ascii=False)


def _table(known: Sequence[tuple[Entry, baselines.StoredBaseline]]) -> str:
    rows = [
        [
            stored.benchmark,
            entry.cell.rpartition("/")[2],
            f"{stored.stack} on {stored.chip}",
            f"{stored.n:,}",
            f"{stored.repeats:g}",
            f"{stored.score:.3f}",
            str(stored.errors),
            stored.source or "evaluated here",
            minute(entry.at),
        ]
        for entry, stored in known
    ]
    heading = ["benchmark", "model", "baseline", "n", "repeats", "score", "errors", "from", "at, UTC"]
    return figures(heading, rows, right=[], width=terminal_width())
