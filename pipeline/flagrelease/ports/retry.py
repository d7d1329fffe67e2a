"""The retry policy of all ports: what may pass by itself, how long to wait, and when to give up."""

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
    """The longest pause that is chosen here. Retry-After may ask for more."""
    budget: float = 60.0
    """How long after the start another attempt may still begin."""
    jitter: float = 0.25
    """The share of a pause that chance may take away, so that clients do not retry in step."""
    attempts: int = 1
    """So many are made even where they use up the budget: for operations that take long."""

    def pause(self, failures: int, asked: float | None = None) -> float:
        """Seconds to wait after `failures` in a row (from 1); not less than the other side `asked` for."""
        own = min(self.most, self.first * 2.0 ** (failures - 1)) * random.uniform(1.0 - self.jitter, 1.0)
        return max(own, asked or 0.0)


class Attempts:
    """The failures of one operation, and whether it may be tried again."""

    def __init__(self, backoff: Backoff, monotonic: Callable[[], float]) -> None:
        self._backoff = backoff
        self._monotonic = monotonic
        self.progressed()

    def progressed(self) -> None:
        """Something was gained: the budget and the pauses start again."""
        self._failures = 0
        self._deadline = self._monotonic() + self._backoff.budget

    def failed(self, asked: float | None = None) -> float | None:
        """Seconds to wait before the next attempt, or None where there is to be none.

        `asked` is Retry-After. A wait that it makes longer than the whole budget is never begun.
        """
        self._failures += 1
        pause = self._backoff.pause(self._failures, asked)
        if asked is not None and asked > self._backoff.budget:
            return None
        late = self._monotonic() + pause > self._deadline
        return None if late and self._failures >= self._backoff.attempts else pause


def retriable(trouble: int | BaseException) -> bool:
    """Whether it may pass by itself: HTTP 408, 429 and 5xx, and errors that are marked so."""
    if isinstance(trouble, int):
        return trouble in (408, 429) or trouble >= 500
    return isinstance(trouble, FlagreleaseError) and trouble.retriable


def wait_or_raise(error: FlagreleaseError, attempts: Attempts, clock: Waits, note: Callable[[str], None]) -> None:
    """Wait before the next attempt, or raise the error where there is to be none."""
    pause = attempts.failed(error.after) if retriable(error) else None
    if pause is None:
        raise error
    note(f"{error.line()}; trying again in {pause:.0f} s")
    clock.sleep(pause)


def retry(
    attempt: Callable[[], T], backoff: Backoff, clock: Waits, note: Callable[[str], None] = lambda _text: None
) -> T:
    """The result of the first attempt that succeeds. Raises the last error, and at once one that is not retriable.

    `note` is called before each wait, for the user.
    """
    attempts = Attempts(backoff, clock.monotonic)
    while True:
        try:
            return attempt()
        except FlagreleaseError as error:
            wait_or_raise(error, attempts, clock, note)
