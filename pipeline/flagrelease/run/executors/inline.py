"""The executor `inline`: one thread per host, without Prefect."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from flagrelease.run.cell_run import CellRun
from flagrelease.run.executors.base import by_host, route


class InlineExecutor:
    """Runs the cells of each host in one thread of this process."""

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
