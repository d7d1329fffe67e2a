"""A clock whose time is that of its sleeps."""

from __future__ import annotations

from datetime import UTC, datetime


class SimulatedClock:
    """Sleeping costs no time and moves it; `slept` remembers for how long."""

    def __init__(self) -> None:
        self.at, self.slept = 0.0, list[float]()

    def monotonic(self) -> float:
        return self.at

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        self.at += seconds
        self.slept.append(seconds)
