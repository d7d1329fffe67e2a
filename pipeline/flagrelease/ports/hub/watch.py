"""Bytes that arrive on several threads, shown as one line with a rate and the time left."""

from __future__ import annotations

import threading
from collections import deque

from flagrelease.ports.clock import Clock
from flagrelease.ports.progress import Count, Progress

_WINDOW_SECONDS = 10.0
_SLOWEST = 1000.0  # bytes a second; below, a time left is no forecast


class Cancelled(BaseException):
    """Raised in a fetching thread that must end. Not an Exception, so that no client retries it."""


class Watch:
    """Counts what a fetch has. `done` may shrink when a damaged file is fetched again; `moved` never does."""

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
        """`count` bytes came over the wire. Raises Cancelled."""
        if self.cancelled.is_set():
            raise Cancelled
        with self._lock:
            self.done += count
            self.moved += max(count, 0)

    def found(self, count: int) -> None:
        """`count` bytes need not be fetched: an earlier run, or the disk, has them. Negative takes them back."""
        if self.cancelled.is_set():
            raise Cancelled
        with self._lock:
            self.done += count

    def not_moved(self, count: int) -> None:
        """`count` bytes that arrived came from a cache on this machine after all."""
        with self._lock:
            self.moved = max(self.moved - count, 0)

    def note(self, text: str) -> None:
        self._progress.note(text)

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait, unless cancelled. Raises Cancelled."""
        if self.cancelled.wait(seconds):
            raise Cancelled

    def show(self) -> None:
        """Refresh the line."""
        now = self._clock.monotonic()
        with self._lock:
            self._samples.append((now, self.moved))
            while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW_SECONDS:
                self._samples.popleft()
            (start, before), (end, after), done = self._samples[0], self._samples[-1], self.done
        rate = (after - before) / (end - start) if end > start else 0.0
        self._progress.doing(self.doing + speed(rate, done, self.total), Count(done, self.total, "B"))


def speed(rate: float, done: int, total: int | None) -> str:
    """`, 12.3 MB/s, 0:42 left`; empty where nothing moves."""
    if rate < _SLOWEST:
        return ""
    text = f", {rate / 1e6:.1f} MB/s"
    if total is not None and total > done:
        minutes, seconds = divmod(int((total - done) / rate + 0.999), 60)
        hours, minutes = divmod(minutes, 60)
        text += f", {hours}:{minutes:02}:{seconds:02} left" if hours else f", {minutes}:{seconds:02} left"
    return text
