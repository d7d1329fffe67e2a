"""On SIGINT, SIGTERM or SIGHUP, stop the work in every thread and let it clean up; on a second one, leave at once."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TypeVar

from flagrelease.errors import Interrupted

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
UNBLOCK_SECONDS = 15.0
"""For stopping containers: an engine grants each 10 s to end, and may not answer at all."""

_GRACE_SECONDS = 10.0
_HOPELESS_SECONDS = 3.0
"""The grace if what the work is blocked on does not end either."""
_POLL_SECONDS = 0.05
_SAME_SECONDS = 1.0
"""Signals in this time are one request: a shell passes on the SIGHUP of its terminal, and `timeout` sends two."""


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


class Signals:
    """The signals that ask this process to stop."""

    def __init__(self) -> None:
        self.awaited = False
        """Whether `run_stoppable` waits for them; otherwise the first one raises KeyboardInterrupt."""
        self.stuck = False
        """Whether the work of `run_stoppable` did not end, though it was stopped."""
        self._process = os.getpid()
        self._first: float | None = None

    @property
    def noted(self) -> bool:
        return self._first is not None

    def note(self, number: int, _frame: FrameType | None) -> None:
        """Takes no lock: it runs between two bytecodes of this thread, which may already hold that lock."""
        if os.getpid() != self._process:  # a child that was forked and has not replaced its program
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif self._first is None:
            self._first = time.monotonic()
            _forsake_terminal()
            if not self.awaited:
                raise KeyboardInterrupt
        elif time.monotonic() - self._first >= _SAME_SECONDS:
            _leave()


_handling: Signals | None = None


@contextmanager
def handled() -> Iterator[Signals]:
    """Handle the signals inside this block, unless an outer one does. Outside the main thread, nothing is handled.

    A SIGHUP that is ignored, as under nohup, stays ignored.
    """
    global _handling
    if _handling is not None or threading.current_thread() is not threading.main_thread():
        yield _handling or Signals()
        return
    _handling = signals = Signals()
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    previous = {number: signal.signal(number, signals.note) for number in SIGNALS if number not in ignored}
    try:
        yield signals
    finally:
        _handling = None
        for number, handler in previous.items():
            signal.signal(number, handler)


def run_stoppable(work: Callable[[], T], workers: Workers, unblock: Callable[[], bool | None]) -> T | None:
    """Run `work` in a thread; on SIGINT, SIGTERM or SIGHUP stop the workers and wait for them.

    `unblock` ends the containers and child processes that threads may be blocked on, and returns False if it cannot.
    Returns the result of `work`, or None if it did not end within 10 s after that, or 3 s if it stays blocked.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, name="executor", daemon=True)
    with handled() as signals:
        signals.awaited = True
        try:
            thread.start()
            while thread.is_alive() and not signals.noted:
                thread.join(_POLL_SECONDS)
            if signals.noted:
                workers.stop()
                unblocked: list[bool | None] = []
                all_within(UNBLOCK_SECONDS, [lambda: unblocked.append(unblock())])
                thread.join(_HOPELESS_SECONDS if False in unblocked else _GRACE_SECONDS)
                signals.stuck = thread.is_alive()
        finally:
            signals.awaited = False
    if errors and not isinstance(errors[0], StopRequested):
        raise errors[0]
    return results[0] if results else None


def all_within(seconds: float, actions: Sequence[Callable[[], object]]) -> bool:
    """Run the actions at the same time, and leave behind those that take longer. Returns whether all have ended;
    raises the first of their errors."""
    errors: list[BaseException] = []

    def act(action: Callable[[], object]) -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    deadline = time.monotonic() + seconds
    threads = [threading.Thread(target=act, args=(action,), daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if errors:
        raise errors[0]
    return not any(thread.is_alive() for thread in threads)


def leave_stuck(code: int) -> None:
    """End the process although threads are blocked, for which Python would wait."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    _kill_programs()
    os._exit(code)


def _leave() -> None:
    """End the process at once. Containers are left, for the next run of their cells."""
    _kill_programs()
    shown = "\x1b[?25h" if os.isatty(2) else ""  # the live table hides the cursor
    hint = "run again: finished stages are kept, and what is left is removed"
    with suppress(OSError):
        os.write(2, f"{shown}\nflagrelease: stopped without cleaning up\n  → {hint}\n".encode())
    os._exit(Interrupted.exit_code)


def _kill_programs() -> None:
    """Only if it is loaded: this runs in a signal handler, where nothing should be imported."""
    if command := sys.modules.get("flagrelease.ports.command"):
        command.kill_all()


def _forsake_terminal() -> None:
    """After a terminal is closed, writing to it fails: write nowhere instead."""
    for descriptor in (1, 2):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
