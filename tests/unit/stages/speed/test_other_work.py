"""Other work is what the machine did beyond our servers and ourselves."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pytest

from flagrelease.contract.speed_results import OtherWork
from flagrelease.ports import processor_time
from flagrelease.ports.processor_time import Reading
from flagrelease.stages.speed.other_work import Watch, mean


@dataclass
class Server:
    """Used the given processor seconds at each reading."""

    seconds: list[float | None]
    readings: int = field(default=0)

    def cpu_seconds(self) -> float | None:
        self.readings += 1
        return self.seconds[self.readings - 1]


def watched(monkeypatch: pytest.MonkeyPatch, servers: list[Server], *readings: Reading | None) -> Watch:
    given = iter(readings)
    monkeypatch.setattr(processor_time, "read", lambda: next(given))
    monkeypatch.setattr(processor_time, "cores", lambda: 2)
    return Watch(*servers)  # type: ignore[arg-type]


def test_our_servers_and_ourselves_are_no_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = [Server([1.0, 4.0]), Server([2.0, 2.5])]
    before = Reading(at=100.0, used=50.0, stolen=1.0, own=5.0)
    after = Reading(at=110.0, used=64.0, stolen=4.0, own=5.5)
    used, other = watched(monkeypatch, servers, before, after).used()
    assert used == [3.0, 0.5]
    assert other == OtherWork(seconds=10.0, cores=2, others=1.0, stolen=0.3)
    assert other.text == "other work takes 1.0 of 2 cores and the hypervisor withholds 0.3 of 2 cores"


def test_what_cannot_be_read_is_unknown_instead_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = Reading(at=1.0, used=1.0, stolen=0.0, own=0.0)
    later = Reading(at=2.0, used=2.0, stolen=0.0, own=0.0)
    assert watched(monkeypatch, [Server([1.0, 2.0])], None, later).used() == ([1.0], None)
    assert watched(monkeypatch, [Server([None, 2.0])], reading, later).used() == ([None], None)


def test_a_quiet_machine_is_not_worth_a_remark() -> None:
    assert OtherWork(seconds=1.0, cores=2, others=0.4, stolen=0.1).text == ""
    assert OtherWork(seconds=1.0, cores=64, others=10.0, stolen=0.0).text == ""


def test_the_mean_weighs_by_time() -> None:
    parts = [
        OtherWork(seconds=1.0, cores=2, others=2.0, stolen=0.0),
        None,
        OtherWork(seconds=3.0, cores=2, others=0.0, stolen=0.4),
    ]
    assert mean(parts) == OtherWork(seconds=4.0, cores=2, others=0.5, stolen=pytest.approx(0.3))
    assert mean([None]) is None


def test_a_busy_program_is_seen_on_this_machine() -> None:
    """It has a core or a share of one, according to what else runs."""
    if processor_time.read() is None:
        pytest.skip("this system does not report processor time")
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        began = processor_time.of_processes([busy.pid])
        watch = Watch()
        time.sleep(1.0)
        _used, other = watch.used()
        used = processor_time.of_processes([busy.pid]) - began
    finally:
        busy.kill()
        busy.wait()
    assert other is not None
    assert other.others >= 0.9 * used / other.seconds - 2 / os.sysconf("SC_CLK_TCK")
    assert used > 0
