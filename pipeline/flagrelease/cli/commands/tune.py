"""`flagrelease tune`: qualify, tune and select a chip's operators for a model, without the rest of a release."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from flagrelease.cli.release_cells import run_cells
from flagrelease.cli.shared import options, show_error
from flagrelease.cli.summary import CellResult, as_error
from flagrelease.cli.text_table import aligned, terminal_width
from flagrelease.config.cell import Cell, select
from flagrelease.contract import results
from flagrelease.contract.stage import AnyStage, keys
from flagrelease.errors import ConfigError, FlagreleaseError, NothingSelected, worst
from flagrelease.run.plan import Choice
from flagrelease.run.project import Project, open_project
from flagrelease.stages.kernels import stage as kernels
from flagrelease.stages.weights import stage as weights

_STAGES = (weights.STAGE, kernels.STAGE)
_REASON_WIDTH = 90


def main(arguments: argparse.Namespace) -> int:
    project = open_project(options(arguments))
    cells = select(_chosen(project.cells, arguments), arguments.cells, arguments.chip, arguments.model)
    stages = _STAGES
    if arguments.config is not None:
        cells = _of_config(cells)
        stages = (weights.of_config(arguments.config), kernels.STAGE)
    cells = _with_operators(project, cells)
    arguments.rounds = 0
    force = frozenset({kernels.STAGE.name} if arguments.again else ())
    wanted = {cell.id: _key(project, cell, stages) for cell in cells if not cell.excluded}
    cell_results = run_cells(project, cells, stages, Choice(force=force), arguments)
    made = {name: _made(project, name, key) for name, key in wanted.items()}
    code = worst(result.code for result in cell_results)
    if arguments.json:
        rows = [_as_json(project, result, made.get(result.cell)) for result in cell_results]
        print(json.dumps({"exit_code": code, "cells": rows}, indent=2, ensure_ascii=False))
        return code
    for result in cell_results:
        print(_text(project, result, made.get(result.cell)))
        if result.code:
            show_error(as_error(result))
    return code


def _with_operators(project: Project, cells: Sequence[Cell]) -> list[Cell]:
    """The cells whose operators can be prepared. Raises NothingSelected if there are none, with the reasons."""
    reasons = {cell.id: kernels.STAGE.skip(project.job(cell)) for cell in cells if not cell.excluded}
    if any(not reason for reason in reasons.values()):
        for name, reason in reasons.items():
            if reason:
                print(f"{name} is left out: {reason}", file=sys.stderr)
        return [cell for cell in cells if not reasons.get(cell.id)]
    others = [c.id for c in project.cells if not c.excluded and not kernels.STAGE.skip(project.job(c))]
    names = ", ".join(reasons)
    raise NothingSelected(
        f"{names} has no operators to prepare" if len(reasons) == 1 else "no selected cell has operators to prepare",
        why="; ".join(dict.fromkeys(reasons.values())),
        hint=f"`flagrelease run {next(iter(reasons))}` releases it without FlagGems operators"
        + (f"; `tune` is for {others[0]} and others with FlagGems" if others else ""),
    )


def _chosen(cells: Sequence[Cell], arguments: argparse.Namespace) -> list[Cell]:
    """The cells, with --policy and --budget in place of the matrix's values. Raises ConfigError for a bad budget."""
    given = {"policy": arguments.policy, "budget": arguments.budget}
    changes: Mapping[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        return [replace(cell, kernels=replace(cell.kernels, **changes)) for cell in cells]
    except ValueError as error:
        raise ConfigError("invalid --budget", why=str(error)) from None


def _of_config(cells: Sequence[Cell]) -> list[Cell]:
    """The cells under another model name, so that the results of a release and those of a config.json are never reused
    for each other. Raises ConfigError unless all cells have the same model."""
    models = sorted({cell.model_name for cell in cells})
    if len(models) != 1:
        why = f"{', '.join(models)} are selected" if models else "no model is selected"
        raise ConfigError("--config needs exactly one model", why=why, hint="select it with --model")
    return [replace(cell, model_name=f"{cell.model_name}.config") for cell in cells]


def _key(project: Project, cell: Cell, stages: tuple[AnyStage, ...]) -> str:
    """The key of the operator bundle; empty if something is not locked, which the run reports."""
    try:
        return keys(project.job(cell), stages, project.ledger)[kernels.STAGE.name].counts
    except FlagreleaseError:
        return ""


def _made(project: Project, cell: str, key: str) -> results.Kernels | None:
    entry = project.ledger.last_done(cell, kernels.STAGE.name, key)
    return None if entry is None else results.KERNELS.decode(entry.result)


def _as_json(project: Project, result: CellResult, made: results.Kernels | None) -> dict[str, Any]:
    row = {"cell": result.cell, "state": result.state, "reason": result.reason, "exit_code": result.code}
    if made is None:
        return {**row, "bundle": None}
    bundle = str(project.workspace.root / made.folder)
    return {**row, "bundle": bundle, "kernels": msgspec.to_builtins(made, enc_hook=dict)}


def _text(project: Project, result: CellResult, made: results.Kernels | None) -> str:
    """A table of all operators that the model calls, the tuning totals and the bundle's path."""
    if made is None:
        return f"{result.cell}: no operators were prepared: {result.reason}"
    tuning = made.tuning
    rows = [
        [op.name, "correct", "yes", f"{op.faster} of {op.classes}", _share(op.share), _share(op.native_share), ""]
        for op in made.operators
    ]
    rows += [[op.operator, op.verdict, "no", "", "", "", _short(op.reason)] for op in made.excluded]
    heading = [result.cell, "verdict", "in effect", "faster at", "of limit", "vendor's", "why not"]
    candidates = f"{tuning.candidates:,} candidates"
    lines = [
        aligned(heading, sorted(rows), right=[3, 4, 5], width=terminal_width()),
        "",
        f"policy  {made.policy}",
        f"tuned   {tuning.kernels} kernels, {tuning.keys} sizes, {candidates}, {tuning.seconds:.0f} s",
        *(f"served  {load}: {a:.3f} [{b:.3f}, {c:.3f}] of native speed" for load, (a, b, c) in made.served.items()),
        f"bundle  {project.workspace.root / made.folder}",
    ]
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _short(text: str) -> str:
    return text if len(text) <= _REASON_WIDTH else text[: _REASON_WIDTH - 1].rstrip() + "…"
