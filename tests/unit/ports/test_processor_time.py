"""Processor time is read from /proc."""

import os
import time
from pathlib import Path

import pytest

from flagrelease.ports import processor_time

TICKS = os.sysconf("SC_CLK_TCK")


def test_the_machine_s_time_is_used_or_stolen_or_idle(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    fields = [100, 20, 30, 4000, 500, 6, 7, 80, 9, 9]  # user nice system idle iowait irq softirq steal guest guest_nice
    stat.write_text("cpu  " + " ".join(str(field * TICKS) for field in fields) + "\ncpu0 1 2 3\n")
    reading = processor_time.read(stat)
    assert reading is not None
    assert (reading.used, reading.stolen) == (163.0, 80.0)
    assert reading.own == pytest.approx(sum(os.times()[:4]), abs=0.5)


@pytest.mark.parametrize("text", ["", "cpu  0 0 0 0 0 0 0 0 0 0\n", "cpu  1 2\n", "intr 5\n"])
def test_a_system_that_does_not_report_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "stat").write_text(text)
    assert processor_time.read(tmp_path / "stat") is None
    assert processor_time.read(tmp_path / "none") is None


def test_the_time_of_processes_counts_what_they_use() -> None:
    before = processor_time.of_processes([os.getpid()])
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    assert processor_time.of_processes([os.getpid(), 2**30]) - before >= 0.25
