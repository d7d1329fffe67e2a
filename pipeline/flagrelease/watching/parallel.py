"""Do many parts at the same time, each within a deadline that holds even for a server that never ends its answer."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["all_of"]

T = TypeVar("T")


def all_of(parts: Sequence[Callable[[], T]], late: Callable[[int], T], *, workers: int, seconds: float) -> list[T]:
    """The result of each part; `late` gives that of one which takes longer than `seconds`. Raises what a part raises.

    The threads are daemons: one that hangs is left behind, another takes its place, and the end of the process ends it.
    """
    return _Crew(parts, seconds).results(late, workers)


class _Crew(Generic[T]):
    def __init__(self, parts: Sequence[Callable[[], T]], seconds: float) -> None:
        self._parts = parts
        self._seconds = seconds
        self._todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[int, T | None, BaseException | None]] = queue.SimpleQueue()
        self._begun: dict[int, float] = {}
        self._found: dict[int, T] = {}
        self._late: set[int] = set()
        for number in range(len(parts)):
            self._todo.put(number)

    def results(self, late: Callable[[int], T], workers: int) -> list[T]:
        for _ in range(min(workers, len(self._parts))):
            self._hire()
        while len(self._found) < len(self._parts):
            try:
                number, result, error = self._done.get(timeout=self._patience())
            except queue.Empty:
                self._replace(late)
                continue
            if error is not None:
                raise error
            self._found.setdefault(number, result)  # type: ignore[arg-type]  # a result if there is no error
        return [self._found[number] for number in range(len(self._parts))]

    def _hire(self) -> None:
        threading.Thread(target=self._work, daemon=True, name="watch").start()

    def _work(self) -> None:
        while True:
            try:
                number = self._todo.get_nowait()
            except queue.Empty:
                return
            self._begun[number] = time.monotonic()
            try:
                self._done.put((number, self._parts[number](), None))
            except BaseException as error:  # raised by the caller's thread
                self._done.put((number, None, error))
            if number in self._late:
                return  # another thread has taken this one's place

    def _patience(self) -> float:
        """Seconds until the first part that runs is late."""
        running = [at for number, at in self._begun.copy().items() if number not in self._found]
        now = time.monotonic()
        return max(0.0, min(running, default=now) + self._seconds - now) + 0.01

    def _replace(self, late: Callable[[int], T]) -> None:
        now = time.monotonic()
        for number, at in self._begun.copy().items():
            if number not in self._found and now - at >= self._seconds:
                self._found[number] = late(number)
                self._late.add(number)
                self._hire()
