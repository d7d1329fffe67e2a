"""The executor interface, and the order in which executors advance cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from flagrelease.contract.stage import AnyStage
from flagrelease.run.cell_run import CellRun


class Executor(Protocol):
    """Runs the cells of a session: `inline` or `prefect`."""

    def execute(self, runs: Sequence[CellRun]) -> None:
        """Advance every cell along its route. A red stage stops only its own cell."""
        ...


def by_host(runs: Sequence[CellRun]) -> dict[str, list[CellRun]]:
    """The cells, in order, grouped by the host that serves their chip. Each host gets one thread."""
    grouped: dict[str, list[CellRun]] = {}
    for run in runs:
        grouped.setdefault(run.cell.chip.hosts[0], []).append(run)
    return grouped


def route(runs: Sequence[CellRun]) -> Iterator[tuple[CellRun, AnyStage]]:
    """The steps of one host. Request the next only after the previous one has ended."""
    for run in runs:
        for stage in run.route():
            yield run, stage
