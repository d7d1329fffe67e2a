"""Show the progress of several download threads as one line with rate and remaining time."""

from __future__ import annotations

import threading
from collections import deque

from flagrelease.ports.clock import Clock
from flagrelease.ports.progress import Count, Progress

_WINDOW_SECONDS = 10.0
_SLOWEST = 1000.0  # bytes per second; at lower rates the remaining time is no useful forecast


class Cancelled(BaseException):
    """Raised in a download thread to stop it. Not an Exception, so that no client retries it."""


class Watch:
    """Counts the bytes of a fetch: `done` shrinks when a damaged file is fetched again, `moved` (transferred) only when
    bytes turn out to come from a cache."""

    def __init__(self, doing: str, total: int | None, progress: Progress, clock: Clock) -> None:
        self.doing = doing
        self.total = total
        self.done = 0
        self.moved = 0
        self.cancelled = threading.Event()
        self._progress = progress
        self._clock = clock
        self._lock = threading.Lock()
        self._samples: deque[tuple[float, int]] = deque([(clock.monotonic(), 0)])

    def arrived(self, count: int) -> None:
        """Count `count` transferred bytes. Raises Cancelled."""
        if self.cancelled.is_set():
            raise Cancelled
        with self._lock:
            self.done += count
            self.moved += max(count, 0)

    def found(self, count: int) -> None:
        """Count `count` bytes that are already on disk; a negative count withdraws bytes. Raises Cancelled."""
        if self.cancelled.is_set():
            raise Cancelled
        with self._lock:
            self.done += count

    def not_moved(self, count: int) -> None:
        """Withdraw `count` bytes from those transferred: they came from a cache on this machine."""
        with self._lock:
            self.moved = max(self.moved - count, 0)

    def note(self, text: str) -> None:
        self._progress.note(text)

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait. Raises Cancelled as soon as the fetch is cancelled."""
        if self.cancelled.wait(seconds):
            raise Cancelled

    def show(self) -> None:
        """Refresh the progress line."""
        now = self._clock.monotonic()
        with self._lock:
            self._samples.append((now, self.moved))
            while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW_SECONDS:
                self._samples.popleft()
            (start, before), (end, after), done = self._samples[0], self._samples[-1], self.done
        rate = (after - before) / (end - start) if end > start else 0.0
        self._progress.doing(self.doing + speed(rate, done, self.total), Count(done, self.total, "B"))


def speed(rate: float, done: int, total: int | None) -> str:
    """`, 12.3 MB/s, 0:42 left`; empty if hardly anything is transferred."""
    if rate < _SLOWEST:
        return ""
    text = f", {rate / 1e6:.1f} MB/s"
    if total is not None and total > done:
        minutes, seconds = divmod(int((total - done) / rate + 0.999), 60)
        hours, minutes = divmod(minutes, 60)
        text += f", {hours}:{minutes:02}:{seconds:02} left" if hours else f", {minutes}:{seconds:02} left"
    return text
