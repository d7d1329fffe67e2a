"""A part in a second process: its result arrives, and its death costs time only."""

import os
import signal

import pytest

from flagrelease.verification import background
from flagrelease.verification.findings import Check, agrees

HERE = os.getpid()


def told() -> list[Check]:
    return [agrees("files", "here" if os.getpid() == HERE else "elsewhere", "x" * 100_000)]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_the_part_runs_in_a_second_process() -> None:
    assert background.start(told)()[0].subject == "elsewhere"


def test_a_process_that_is_killed_has_its_part_done_here() -> None:
    def killed() -> list[Check]:
        if os.getpid() != HERE:
            os.kill(os.getpid(), signal.SIGKILL)
        return told()

    assert background.start(killed)()[0].subject == "here"


def test_on_one_core_there_is_no_second_process() -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert background.start(told)()[0].subject == "here"
    finally:
        os.sched_setaffinity(0, cores)
