"""Parts in parallel: a server that never ends its answer costs its deadline, and nobody else's result."""

from __future__ import annotations

import threading
import time

import pytest

from flagrelease.watching.parallel import all_of


def test_a_part_that_hangs_is_left_behind_and_the_others_are_done() -> None:
    release, threads = threading.Event(), set()

    def hang() -> str:
        release.wait(20)
        return "at last"

    def quick() -> str:
        threads.add(threading.current_thread())
        return "done"

    begun = time.monotonic()
    found = all_of([hang, quick, hang, quick, quick], lambda number: f"late {number}", workers=2, seconds=0.2)
    assert found == ["late 0", "done", "late 2", "done", "done"]
    assert time.monotonic() - begun < 10
    release.set()
    assert all_of([], lambda _number: "", workers=2, seconds=0.2) == []


def test_many_parts_take_few_threads_and_keep_their_order() -> None:
    threads = set()

    def part(number: int) -> int:
        threads.add(threading.current_thread().ident)
        return number

    parts = [lambda number=number: part(number) for number in range(50)]
    assert all_of(parts, lambda _number: -1, workers=3, seconds=30) == list(range(50))
    assert len(threads) <= 3


def test_a_defect_in_a_part_is_no_finding() -> None:
    def broken() -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        all_of([broken], lambda _number: "late", workers=1, seconds=30)
