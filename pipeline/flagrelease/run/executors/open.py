"""Open an executor by name: `inline`, or `prefect`, which is imported only on demand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flagrelease.redact import remember
from flagrelease.run.executors import prefect_server
from flagrelease.run.executors.base import Executor
from flagrelease.run.executors.inline import InlineExecutor


@contextmanager
def opened(name: str, prefect_root: Path, run_id: str) -> Iterator[Executor]:
    """The executor `name` (prefect or inline), open until the end of the block.

    Raises EnvironmentFault if Prefect's server does not start.
    """
    if name == "inline":
        yield InlineExecutor()
        return
    with prefect_server.server(prefect_root, run_id) as server:
        # Prefect reads its settings when it is imported.
        os.environ.update(server.environment)
        for variable in server.withheld:
            remember(variable, os.environ.pop(variable, ""))
        from flagrelease.run.executors.prefect_flow import PrefectExecutor

        server.ready()
        yield PrefectExecutor()
