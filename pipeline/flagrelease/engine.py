"""Engines run the cells of a session: `inline` here, `prefect` in flow.py. Both advance the same CellRuns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from flagrelease import embedded
from flagrelease.runner import CellRun
from flagrelease.stage import Stage


class Engine(Protocol):
    """Takes every cell along its route. A red stage stops its own cell only."""

    def execute(self, runs: Sequence[CellRun]) -> None: ...


def by_host(runs: Sequence[CellRun]) -> dict[str, list[CellRun]]:
    """The cells in their order, grouped by the host that serves their chip: one thread each."""
    grouped: dict[str, list[CellRun]] = {}
    for run in runs:
        grouped.setdefault(run.cell.chip.hosts[0], []).append(run)
    return grouped


def route(runs: Sequence[CellRun]) -> Iterator[tuple[CellRun, Stage]]:
    """What one host does, each step after the one before has ended."""
    for run in runs:
        for stage in run.route():
            yield run, stage


class InlineEngine:
    """A thread for each host, and nothing else."""

    def execute(self, runs: Sequence[CellRun]) -> None:
        groups = by_host(runs)
        if not groups:
            return
        with ThreadPoolExecutor(max_workers=len(groups), thread_name_prefix="host") as pool:
            for future in [pool.submit(self._one_after_another, group) for group in groups.values()]:
                future.result()

    @staticmethod
    def _one_after_another(runs: Sequence[CellRun]) -> None:
        for run, stage in route(runs):
            run.advance(stage)


@contextmanager
def opened(name: str, prefect_root: Path, run_id: str) -> Iterator[Engine]:
    """The engine called `name`, prefect or inline, for the length of the block.

    Raises EnvironmentFault where Prefect's server does not come up.
    """
    if name == "inline":
        yield InlineEngine()
        return
    with embedded.server(prefect_root, run_id) as server:
        # Prefect reads its settings when it is imported.
        os.environ.update(server.environment)
        from flagrelease.flow import PrefectEngine

        server.ready()
        yield PrefectEngine()
