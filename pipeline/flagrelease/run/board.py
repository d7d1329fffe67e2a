"""The interface of progress displays."""

from __future__ import annotations

from typing import Protocol

from flagrelease.ports.progress import Progress
from flagrelease.run.outcome import Outcome


class Board(Protocol):
    """Shows the progress of a run."""

    def __enter__(self) -> Board: ...

    def __exit__(self, *_: object) -> None: ...

    def say(self, text: str) -> None:
        """Print a line that concerns the complete run."""
        ...

    def begin(self, cell: str, stage: str, doing: str) -> None: ...

    def progress(self, cell: str, stage: str) -> Progress: ...

    def settle(self, outcome: Outcome) -> None: ...
