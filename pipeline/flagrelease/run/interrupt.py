"""On Ctrl-C or SIGTERM, stop the work in every thread and let it clean up."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

_GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.05


class StopRequested(BaseException):
    """Raised in a working thread. Not an Exception, so that no retry swallows it."""


class Workers:
    """The threads that are running a stage."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: set[int] = set()
        self.stopping = threading.Event()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Allow the current thread to be stopped inside this block. Raises StopRequested if stopping has begun."""
        ident = threading.get_ident()
        if self.stopping.is_set():
            raise StopRequested
        with self._lock:
            self._threads.add(ident)
        try:
            yield
        finally:
            with self._lock:
                self._threads.discard(ident)

    def stop(self) -> None:
        """Raise StopRequested in every working thread, once each."""
        self.stopping.set()
        with self._lock:
            for ident in self._threads:
                # The only way in CPython to stop a thread at an arbitrary bytecode.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(StopRequested))
            self._threads.clear()


def run_stoppable(work: Callable[[], T], workers: Workers, unblock: Callable[[], None]) -> T | None:
    """Run `work` in a thread; on SIGINT or SIGTERM stop the workers and wait for them.

    `unblock` ends the containers and child processes that threads may be blocked on. Returns the result of `work`, or
    None if it did not end within 10 s after a signal.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    signals: list[int] = []

    def note_signal(number: int, _frame: FrameType | None) -> None:
        """Takes no lock: it runs between two bytecodes of this thread, which may already hold that lock."""
        signals.append(number)

    thread = threading.Thread(target=target, name="executor", daemon=True)
    previous = {number: signal.signal(number, note_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        thread.start()
        while thread.is_alive() and not signals:
            thread.join(_POLL_SECONDS)
        if signals:
            workers.stop()
            unblock()
            thread.join(_GRACE_SECONDS)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if errors and not isinstance(errors[0], StopRequested):
        raise errors[0]
    return results[0] if results else None
