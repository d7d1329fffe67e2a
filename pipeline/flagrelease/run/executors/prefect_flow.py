"""The executor `prefect`: one flow, with a task per stage of each cell. The only module that imports Prefect."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from prefect import allow_failure, flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flagrelease.run.cell_run import CellRun
from flagrelease.run.executors.base import Lane, lanes
from flagrelease.run.outcome import Outcome


class PrefectExecutor:
    """Runs a session as one Prefect flow run, which fails if and only if a cell is red."""

    def execute(self, runs: Sequence[CellRun]) -> None:
        by_id = {run.cell.id: run for run in runs}
        found = lanes(runs)

        @task(task_run_name="{cell}:{stage}", cache_policy=NO_CACHE, persist_result=False, retries=0)
        def stage_task(cell: str, stage: str) -> State[None]:
            run = by_id[cell]
            return _state(run.advance(run.stage(stage)))

        threads: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=len(found))

        @flow(
            name="flagrelease",
            flow_run_name=runs[0].session.run_id,
            task_runner=threads,  # type: ignore[arg-type]  # its futures are PrefectFutures; the stub is invariant
            persist_result=False,
            retries=0,
        )
        def release(cells: list[str]) -> State[None]:
            # One thread per lane: its cells form one chain, and a red stage does not break it. The next stage is known
            # only when the previous one has ended.
            waiting: dict[PrefectFuture[State[None]], Lane] = {}

            def submit_next(chain: Lane, *before: PrefectFuture[State[None]]) -> None:
                if (step := next(chain, None)) is not None:
                    waits = [allow_failure(future) for future in before]
                    future = stage_task.submit(step[0].cell.id, step[1].name, wait_for=waits)  # type: ignore[call-overload]
                    waiting[future] = chain

            for lane in found:
                submit_next(lane)
            while waiting:
                ended = next(as_completed(list(waiting)))
                submit_next(waiting.pop(ended), ended)
            _show(runs)
            red = [run.cell.id for run in runs if any(outcome.red for outcome in run.outcomes)]
            if red:
                return Failed(message=f"red: {', '.join(red)}")
            return Completed(message=f"{len(cells)} cells")

        # The heartbeat costs a second per flow run, and this is the only way to disable it.
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            release(list(by_id), return_state=True)


def _state(outcome: Outcome) -> State[None]:
    if outcome.red:
        return Failed(message=outcome.reason, name=outcome.status.capitalize())
    return Completed(message=outcome.reason, name=outcome.status.capitalize())


def _show(runs: Sequence[CellRun]) -> None:
    """Publish the table of outcomes as a Prefect artifact. A failure to do so does not fail a cell."""
    rows = [
        {"cell": o.cell, "stage": o.stage, "state": o.status, "seconds": round(o.spent.seconds, 1), "reason": o.reason}
        for run in runs
        for o in run.outcomes
    ]
    with suppress(Exception):
        key = re.sub("[^a-z0-9]+", "-", runs[0].cell.id) if len(runs) == 1 else "matrix"
        create_table_artifact(key=key, table=rows)
