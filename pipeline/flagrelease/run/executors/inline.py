"""The executor `inline`: one thread per lane, without Prefect."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from flagrelease.run.cell_run import CellRun
from flagrelease.run.executors.base import Lane, lanes


class InlineExecutor:
    """Runs the cells of each lane in one thread of this process."""

    def execute(self, runs: Sequence[CellRun]) -> None:
        found = lanes(runs)
        if not found:
            return
        with ThreadPoolExecutor(max_workers=len(found), thread_name_prefix="host") as pool:
            for future in [pool.submit(self._one_after_another, lane) for lane in found]:
                future.result()

    @staticmethod
    def _one_after_another(lane: Lane) -> None:
        for run, stage in lane:
            run.advance(stage)
