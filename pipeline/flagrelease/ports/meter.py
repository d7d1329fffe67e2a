"""What a stage waits for: seconds outside our own code, and bytes moved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flagrelease.ports.clock import Clock


@dataclass
class Meter:
    """Adds up what a stage waits for: seconds spent outside our own code, and bytes moved."""

    clock: Clock
    outside: float = 0.0
    moved: int = 0
    depth: int = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time in this block is download, build, push, serving start or inference, not our overhead.

        Blocks nest; the outermost one counts.
        """
        start = self.clock.monotonic()
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            if self.depth == 0:
                self.outside += self.clock.monotonic() - start
