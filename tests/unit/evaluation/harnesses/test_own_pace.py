"""The limits of an answer follow from the answers so far."""

from __future__ import annotations

from dataclasses import replace

from flagrelease.evaluation.harnesses.own_pace import Pace


def pace() -> Pace:
    return Pace(most_tokens=1000, most_seconds=1800.0, least_seconds=120.0)


def test_while_no_speed_is_known_the_longest_time_is_allowed() -> None:
    one = pace()
    one.sent(100.0)
    assert one.limit == 1800
    assert not one.hangs(100 + 2600)
    assert one.hangs(100 + 2800)
    unlimited = replace(pace(), most_tokens=0)
    unlimited.answered(0.1, 10)
    assert unlimited.limit == 1800


def test_before_the_first_answer_the_measured_speed_counts() -> None:
    one = replace(pace(), slowest=0.03)
    one.sent(100.0)
    assert one.limit == 120 + 4 * 0.03 * 1000
    assert not one.hangs(100 + 1.4 * 240)
    assert one.hangs(100 + 1.6 * 240)


def test_an_answer_may_take_four_times_the_slowest_one_at_its_full_length() -> None:
    one = pace()
    one.answered(2.0, 100)  # 0.02 s a token
    one.answered(1.0, 100)
    assert one.limit == 120 + 4 * 0.02 * 1000
    one.answered(3.0, None)
    assert one.limit == 1800, "without a count of tokens, the whole time may be that of one"


def test_silence_is_counted_from_the_last_response() -> None:
    one = pace()
    one.answered(0.01, 1)
    one.sent(400.0)
    one.sent(400.0)
    one.responded(500.0)
    assert one.silent(560.0) == 60
    assert not one.hangs(500 + 1.4 * one.limit)
    assert one.hangs(500 + 1.6 * one.limit)


def test_a_request_that_is_lost_is_still_owed() -> None:
    one = pace()
    one.sent(100.0)
    one.lost()
    one.sent(220.0)
    assert one.silent(230.0) == 130


def test_grading_is_no_silence_of_the_server() -> None:
    """All answers may wait for one slow grader, while nothing is asked."""
    one = pace()
    one.answered(0.01, 1)
    one.sent(100.0)
    one.responded(101.0)
    assert one.silent(5000.0) == 0
    assert not one.hangs(5000.0)
    one.sent(5000.0)
    assert one.silent(5001.0) == 1
