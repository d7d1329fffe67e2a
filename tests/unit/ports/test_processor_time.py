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


CONTAINER = "22cc0ab09104"
OLD = f"9:name=systemd:/docker/{CONTAINER}\n4:memory:/docker/{CONTAINER}\n2:cpu,cpuacct:/docker/{CONTAINER}\n0::/x\n"
GROUPS = {
    "usage": f"cpuacct/docker/{CONTAINER}/cpuacct.usage",
    "stat": f"system.slice/docker-{CONTAINER}.scope/cpu.stat",
}
NEW = f"0::/system.slice/docker-{CONTAINER}.scope\n"


def of_container(root: Path, group: str, **files: str) -> float | None:
    """With this /proc/7/cgroup, and files of the control groups."""
    (root / "7").mkdir(parents=True)
    (root / "7/cgroup").write_text(group)
    for name, text in files.items():
        path = root / GROUPS[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return processor_time.of_container(CONTAINER, 7, root, root)


def test_a_container_s_time_is_that_of_its_control_group(tmp_path: Path) -> None:
    assert of_container(tmp_path / "1", OLD, usage="2500000000\n") == 2.5
    assert of_container(tmp_path / "2", NEW, stat="nr_periods 4\nusage_usec 1500000\nuser_usec 9\n") == 1.5


@pytest.mark.parametrize("group", ["", "0::/\n", "0::/docker/another\n", "nonsense", OLD, NEW])
def test_the_time_of_a_process_that_is_not_the_container_s_is_unknown(tmp_path: Path, group: str) -> None:
    """Its engine is on another machine, or the container has ended: OLD and NEW name groups that are gone."""
    assert of_container(tmp_path, group) is None
    assert processor_time.of_container(CONTAINER, 0, tmp_path, tmp_path) is None
