"""Where a run is shown: what a display implements."""

from __future__ import annotations

from typing import Protocol

from flagrelease.ports.progress import Progress
from flagrelease.run.outcome import Outcome


class Board(Protocol):
    """Where a run is shown."""

    def __enter__(self) -> Board: ...

    def __exit__(self, *_: object) -> None: ...

    def say(self, text: str) -> None:
        """A line about the run as a whole."""
        ...

    def begin(self, cell: str, stage: str, doing: str) -> None: ...

    def progress(self, cell: str, stage: str) -> Progress: ...

    def settle(self, outcome: Outcome) -> None: ...
