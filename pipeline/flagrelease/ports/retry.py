"""The retry policy of all ports: which failures are transient, how long to wait, when to give up."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from flagrelease.errors import FlagreleaseError

__all__ = ["Attempts", "Backoff", "Waits", "retriable", "retry", "wait_or_raise"]

T = TypeVar("T")


class Waits(Protocol):
    """The part of Clock that retrying needs."""

    def monotonic(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Exponential pauses between attempts, within a budget. All times are in seconds."""

    first: float = 1.0
    """The pause after the first failure; it doubles with each further one."""
    most: float = 30.0
    """The longest pause. Retry-After may ask for more."""
    budget: float = 60.0
    """How long after the start a further attempt may begin."""
    jitter: float = 0.25
    """The largest random reduction, as a share of the pause, so that clients do not retry in step."""
    attempts: int = 1
    """The least number of attempts, even beyond the budget: for operations that take long."""

    def pause(self, failures: int, asked: float | None = None) -> float:
        """Seconds to wait after `failures` in a row (at least 1); not less than the Retry-After value `asked`."""
        own = min(self.most, self.first * 2.0 ** (failures - 1)) * random.uniform(1.0 - self.jitter, 1.0)
        return max(own, asked or 0.0)


class Attempts:
    """Counts the failures of one operation and decides whether it may be retried."""

    def __init__(self, backoff: Backoff, monotonic: Callable[[], float]) -> None:
        self._backoff = backoff
        self._monotonic = monotonic
        self.progressed()

    def progressed(self) -> None:
        """Restart the budget and the pauses, because the operation made progress."""
        self._failures = 0
        self._deadline = self._monotonic() + self._backoff.budget

    def failed(self, asked: float | None = None) -> float | None:
        """Seconds to wait before the next attempt; None to give up.

        `asked` is the Retry-After value; if it exceeds the entire budget, give up at once.
        """
        self._failures += 1
        pause = self._backoff.pause(self._failures, asked)
        if asked is not None and asked > self._backoff.budget:
            return None
        late = self._monotonic() + pause > self._deadline
        return None if late and self._failures >= self._backoff.attempts else pause


def retriable(trouble: int | BaseException) -> bool:
    """Whether the failure may be transient: HTTP 408, 429 and 5xx, and errors marked `retriable`."""
    if isinstance(trouble, int):
        return trouble in (408, 429) or trouble >= 500
    return isinstance(trouble, FlagreleaseError) and trouble.retriable


def wait_or_raise(error: FlagreleaseError, attempts: Attempts, clock: Waits, note: Callable[[str], None]) -> None:
    """Wait before the next attempt, or raise the error to give up; its reason then says what wait was asked for."""
    pause = attempts.failed(error.after) if retriable(error) else None
    if pause is None:
        asked = "" if error.after is None else f"asked to wait {error.after:.0f} s"
        if asked not in error.why:  # retries may be nested: a push, and each of its requests
            error.why = f"{error.why}; {asked}" if error.why else asked
        raise error
    note(f"{error.line()}; retrying in {pause:.0f} s")
    clock.sleep(pause)


def retry(
    attempt: Callable[[], T], backoff: Backoff, clock: Waits, note: Callable[[str], None] = lambda _text: None
) -> T:
    """The result of the first attempt that succeeds.

    Raises the last error, or at once any error that is not retriable. `note` gets a line for the user before each wait.
    """
    attempts = Attempts(backoff, clock.monotonic)
    while True:
        try:
            return attempt()
        except FlagreleaseError as error:
            wait_or_raise(error, attempts, clock, note)
