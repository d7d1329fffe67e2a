"""Ctrl-C while threads are working."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable

import pytest

from flagrelease.run.interrupt import StopRequested, Workers, run_stoppable


def interrupted(workers: Workers, begun: threading.Event) -> Callable[[], str]:
    """Work that runs until it is stopped."""

    def work() -> str:
        with workers.working():
            begun.set()
            while True:
                time.sleep(0.01)

    return work


def signal_once(begun: threading.Event, number: signal.Signals) -> None:
    def send() -> None:
        begun.wait(5)
        os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_work_and_unblocks_it_once(number: signal.Signals) -> None:
    workers, begun, unblocked = Workers(), threading.Event(), []
    signal_once(begun, number)
    before = signal.getsignal(number)
    assert run_stoppable(interrupted(workers, begun), workers, lambda: unblocked.append(1)) is None
    assert workers.stopping.is_set()
    assert unblocked == [1]
    assert signal.getsignal(number) is before
    with pytest.raises(StopRequested), workers.working():
        pass


def test_the_handler_takes_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler interrupts this thread, which may already hold the lock that the handler would wait for: stopping the
    workers there made a process hang forever after it had finished its release."""
    callers: list[str] = []
    stop = Workers.stop

    def seen(self: Workers) -> None:
        callers.append(traceback.extract_stack()[-2].name)
        stop(self)

    monkeypatch.setattr(Workers, "stop", seen)
    workers, begun = Workers(), threading.Event()
    signal_once(begun, signal.SIGINT)
    run_stoppable(interrupted(workers, begun), workers, lambda: None)
    assert callers == ["run_stoppable"]


def test_work_that_is_not_stopped_returns_its_result_or_raises_its_error() -> None:
    workers = Workers()
    assert run_stoppable(lambda: 7, workers, lambda: None) == 7

    def fails() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_stoppable(fails, workers, lambda: None)
    assert not workers.stopping.is_set()
