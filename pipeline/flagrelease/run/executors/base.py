"""The executor interface, and the order in which executors advance cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from flagrelease.config.cell import Cell
from flagrelease.contract.stage import AnyStage
from flagrelease.run.cell_run import CellRun


class Executor(Protocol):
    """Runs the cells of a session: `inline` or `prefect`."""

    def execute(self, runs: Sequence[CellRun]) -> None:
        """Advance every cell along its route. A red stage stops only its own cell."""
        ...


Lane = Iterator[tuple[CellRun, AnyStage]]
"""The steps of cells that run one after another, in one thread. Request the next only after the previous one has
ended."""


def lanes(runs: Sequence[CellRun]) -> list[Lane]:
    """The lanes of all hosts. A host has as many as cells fit on its devices at once, which take its cells in turns."""
    grouped: dict[str, list[CellRun]] = {}
    for run in runs:
        grouped.setdefault(run.cell.chip.hosts[0], []).append(run)
    found: list[Lane] = []
    for group in grouped.values():
        cells = iter(group)  # `next` on the iterator of a list is atomic
        found += [_route(cells) for _ in range(at_once([run.cell for run in group]))]
    return found


def at_once(cells: Sequence[Cell]) -> int:
    """How many of one host's cells run at once: one, unless all chips say how many devices the host has."""
    sizes = [cell.chip.host_devices for cell in cells]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return 1
    smallest = min(cell.model.serve.devices for cell in cells)
    return max(1, min(len(cells), min(known) // smallest))


def _route(runs: Iterable[CellRun]) -> Lane:
    for run in runs:
        for stage in run.route():
            yield run, stage
