"""Ctrl-C while threads are working."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator

import pytest

from flagrelease.run.interrupt import StopRequested, Workers, all_within, handled, run_stoppable


@pytest.fixture(autouse=True)
def _not_under_nohup() -> Iterator[None]:
    """Whoever runs the tests may have had SIGHUP ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
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


def test_without_work_the_first_signal_interrupts_and_its_repetition_does_not() -> None:
    with handled() as signals:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with handled() as inner:
            assert inner is signals
    assert signals.noted


def test_work_is_not_begun_to_its_end_after_a_signal() -> None:
    workers, begun = Workers(), threading.Event()
    with handled():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGHUP)
        assert run_stoppable(interrupted(workers, begun), workers, lambda: None) is None


def test_under_nohup_a_closed_terminal_stops_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handled() as signals:
            signal.raise_signal(signal.SIGHUP)
        assert not signals.noted
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_forked_child_ends_by_the_signal() -> None:
    with handled():
        child = os.fork()
        if not child:
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM


def test_what_takes_too_long_is_left_behind() -> None:
    released = threading.Event()
    start = time.monotonic()
    assert not all_within(0.2, [released.wait, lambda: None])
    assert time.monotonic() - start < 5
    released.set()
    assert all_within(5, [released.wait, lambda: None])

    def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        all_within(5, [fails])
