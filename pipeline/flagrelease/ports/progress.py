"""The port by which a stage reports its progress. A stage never prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Count:
    """A progress count."""

    done: int
    total: int | None
    """None if it is unknown."""
    unit: str
    """`B` for bytes, else a plural noun (`questions`)."""


class Progress(Protocol):
    """One stage's line in the table."""

    def doing(self, text: str, count: Count | None = None) -> None:
        """Replace the text of the line. May be called at any rate; the display refreshes a few times a second."""
        ...

    def note(self, text: str) -> None:
        """Print a line that stays on the screen: a retry, a cause, a decision."""
        ...


class Silent:
    """Discards all progress."""

    def doing(self, text: str, count: Count | None = None) -> None:
        pass

    def note(self, text: str) -> None:
        pass
