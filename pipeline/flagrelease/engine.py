"""Open an engine by name: `inline`, or `prefect`, which is imported only then."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flagrelease import embedded
from flagrelease.executor_base import Engine
from flagrelease.executor_inline import InlineEngine


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
