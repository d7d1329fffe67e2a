"""Open an engine by name: `inline`, or `prefect`, which is imported only then."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flagrelease.run.executors import prefect_server
from flagrelease.run.executors.base import Executor
from flagrelease.run.executors.inline import InlineExecutor


@contextmanager
def opened(name: str, prefect_root: Path, run_id: str) -> Iterator[Executor]:
    """The engine called `name`, prefect or inline, for the length of the block.

    Raises EnvironmentFault where Prefect's server does not come up.
    """
    if name == "inline":
        yield InlineExecutor()
        return
    with prefect_server.server(prefect_root, run_id) as server:
        # Prefect reads its settings when it is imported.
        os.environ.update(server.environment)
        from flagrelease.run.executors.prefect_flow import PrefectExecutor

        server.ready()
        yield PrefectExecutor()
