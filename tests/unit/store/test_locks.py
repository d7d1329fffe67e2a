"""Locks exclude others, name their holder and are released with the block."""

from __future__ import annotations

import os
import re
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from flagrelease.errors import Busy
from flagrelease.store.locks import hold, wait_for


def test_a_second_holder_is_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "cell.lock"
    with hold(path, "the cell", "a-run-with-a-long-name"):
        pass
    with hold(path, "the cell", "run-1"):
        with pytest.raises(Busy, match="the cell is busy") as caught, hold(path, "the cell", "run-2"):
            pytest.fail("held twice")
        assert re.fullmatch(
            rf"held by run run-1, pid {os.getpid()} on {re.escape(socket.gethostname())}, "
            r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC",
            caught.value.why,
        )
    with hold(path, "the cell", "run-2"):
        assert path.stat().st_mode & 0o777 == 0o644 & ~_umask(), "another user may read who holds it"


def test_who_waits_is_told_the_holder_and_gets_the_lock_after_it(tmp_path: Path) -> None:
    path = tmp_path / "host.lock"
    holders: list[str] = []
    slept: list[float] = []
    with ExitStack() as other:
        other.enter_context(hold(path, "the host", "run-1"))

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 2:
                other.close()

        with wait_for(path, "run-2", holders.append, sleep):
            assert [holder.partition(",")[0] for holder in holders] == ["held by run run-1"] * 2
            assert 0 < sum(slept) <= 1, "it is taken soon after it is free"
            with pytest.raises(Busy) as caught, hold(path, "the host", "run-3"):
                pytest.fail("held twice")
            assert "run-2" in caught.value.why


def test_a_holder_that_has_not_signed_yet_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "cell.lock"
    with hold(path, "the cell", "run-1"):
        path.write_text("")
        with pytest.raises(Busy) as caught, hold(path, "the cell", "run-2"):
            pytest.fail("held twice")
    assert caught.value.why == "held by another run that has just started"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
