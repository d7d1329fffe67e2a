"""Measure the time that a stage spends waiting, and the bytes that it transfers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flagrelease.ports.clock import Clock


@dataclass
class Meter:
    """The waiting time and the transferred bytes of one stage."""

    clock: Clock
    outside: float = 0.0
    """Seconds spent waiting for anything but our own code."""
    moved: int = 0
    """Bytes transferred."""
    depth: int = 0
    """How many `waiting` blocks are open."""

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as download, build, push, server start or inference, not as our overhead.

        Blocks may nest; only the outermost block counts.
        """
        start = self.clock.monotonic()
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            if self.depth == 0:
                self.outside += self.clock.monotonic() - start
