"""Engines run the cells of a session: `inline` and `prefect`. Both advance the same CellRuns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from flagrelease.contract.stage import AnyStage
from flagrelease.run.cell_run import CellRun


class Executor(Protocol):
    """Takes every cell along its route. A red stage stops its own cell only."""

    def execute(self, runs: Sequence[CellRun]) -> None: ...


def by_host(runs: Sequence[CellRun]) -> dict[str, list[CellRun]]:
    """The cells in their order, grouped by the host that serves their chip: one thread each."""
    grouped: dict[str, list[CellRun]] = {}
    for run in runs:
        grouped.setdefault(run.cell.chip.hosts[0], []).append(run)
    return grouped


def route(runs: Sequence[CellRun]) -> Iterator[tuple[CellRun, AnyStage]]:
    """What one host does, each step after the one before has ended."""
    for run in runs:
        for stage in run.route():
            yield run, stage
