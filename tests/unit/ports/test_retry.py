"""The retry policy: which failures are transient, how long to wait, when to give up, what the user reads."""

from collections.abc import Callable

import pytest

from flagrelease.errors import FlagreleaseError, HubUnavailable, NoSpace, RegistryDenied, RegistryUnavailable
from flagrelease.ports.retry import Attempts, Backoff, retriable, retry
from support.clocks import SimulatedClock

PLAIN = Backoff(first=1.0, most=8.0, budget=60.0, jitter=0.0)


def failing(times: int, after: float | None = None) -> Callable[[], str]:
    left = [times]

    def attempt() -> str:
        left[0] -= 1
        if left[0] >= 0:
            error = HubUnavailable("the hub is away", why="HTTP 503")
            error.after = after
            raise error
        return "had"

    return attempt


def test_pauses_double_up_to_the_longest() -> None:
    clock = SimulatedClock()
    assert retry(failing(6), PLAIN, clock) == "had"
    assert clock.slept == [1, 2, 4, 8, 8, 8]


def test_jitter_only_shortens() -> None:
    backoff = Backoff(first=1.0, most=8.0, jitter=0.5)
    pauses = [backoff.pause(2) for _ in range(200)]
    assert 1.0 <= min(pauses) < 1.3
    assert 1.7 < max(pauses) <= 2.0


def test_the_budget_ends_it_before_a_wait_that_would_pass_it() -> None:
    clock = SimulatedClock()
    with pytest.raises(HubUnavailable, match="the hub is away"):
        retry(failing(99), PLAIN, clock)
    assert clock.at <= PLAIN.budget < clock.at + 8


def test_an_attempt_that_takes_long_uses_the_budget_up() -> None:
    clock = SimulatedClock()

    def slow() -> str:
        clock.at += 100
        return failing(1)()

    with pytest.raises(HubUnavailable):
        retry(slow, PLAIN, clock)
    assert clock.slept == []


def test_some_attempts_are_made_however_long_they_take() -> None:
    clock, made = SimulatedClock(), list[float]()

    def slow() -> str:
        made.append(clock.at)
        clock.at += 100
        return failing(1)()

    with pytest.raises(HubUnavailable):
        retry(slow, Backoff(first=1.0, budget=60.0, jitter=0.0, attempts=3), clock)
    assert made == [0, 101, 203]


def test_retry_after_is_the_least_that_is_waited() -> None:
    clock = SimulatedClock()
    assert retry(failing(2, after=7), PLAIN, clock) == "had"
    assert clock.slept == [7, 7]
    assert PLAIN.pause(3, asked=0.5) == 4


def test_retry_after_beyond_the_budget_is_not_begun() -> None:
    clock = SimulatedClock()
    nested = Backoff(budget=60.0, attempts=3)
    with pytest.raises(HubUnavailable) as caught:
        retry(lambda: retry(failing(1, after=3600), nested, clock), nested, clock)
    assert clock.slept == []
    assert caught.value.why == "HTTP 503; asked to wait 3600 s"


def test_progress_starts_the_budget_and_the_pauses_again() -> None:
    clock = SimulatedClock()
    attempts = Attempts(PLAIN, clock.monotonic)
    assert [attempts.failed() for _ in range(3)] == [1, 2, 4]
    clock.at = 59.5
    assert attempts.failed() is None
    attempts.progressed()
    assert attempts.failed() == 1


@pytest.mark.parametrize("error", [RegistryDenied("no"), NoSpace("full"), FlagreleaseError("?")])
def test_permanent_errors_are_raised_at_once(error: FlagreleaseError) -> None:
    clock = SimulatedClock()

    def attempt() -> None:
        raise error

    with pytest.raises(type(error)):
        retry(attempt, PLAIN, clock)
    assert clock.slept == []


def test_every_retry_is_noted() -> None:
    notes = list[str]()
    retry(failing(2), PLAIN, SimulatedClock(), notes.append)
    assert notes == [
        "the hub is away: HTTP 503; retrying in 1 s",
        "the hub is away: HTTP 503; retrying in 2 s",
    ]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_transient_statuses(status: int) -> None:
    assert retriable(status)


@pytest.mark.parametrize("status", [200, 301, 400, 401, 403, 404, 413])
def test_permanent_statuses(status: int) -> None:
    assert not retriable(status)


def test_errors_are_marked_retriable() -> None:
    assert retriable(RegistryUnavailable("away"))
    assert not retriable(RegistryDenied("no"))
    assert not retriable(ValueError("a defect"))
