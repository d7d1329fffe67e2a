"""How a stage says what it is doing now. A stage never prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Count:
    """How far something is. `unit` is `B` for bytes, else a plural noun (`questions`)."""

    done: int
    total: int | None
    unit: str


class Progress(Protocol):
    """One stage's line in the table."""

    def doing(self, text: str, count: Count | None = None) -> None:
        """Replace the text of the line; called as often as one likes, shown a few times a second."""
        ...

    def note(self, text: str) -> None:
        """Something that stays on the screen: a retry, a cause, a choice that was made."""
        ...


class Silent:
    """For work that nobody watches."""

    def doing(self, text: str, count: Count | None = None) -> None:
        pass

    def note(self, text: str) -> None:
        pass
