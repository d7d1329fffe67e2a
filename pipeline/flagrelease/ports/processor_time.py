"""Read the processor time that processes, containers and the machine have used, from /proc and control groups."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The state of the machine's processors at one time; all in seconds, summed over all cores."""

    at: float
    """By time.monotonic."""
    used: float
    """Used since boot, by all programs and the kernel."""
    stolen: float
    """Withheld by the hypervisor since boot (steal time)."""
    own: float
    """Used by this process and its ended children."""


def read(stat: Path = Path("/proc/stat")) -> Reading | None:
    """The current state; None if this system does not report it."""
    with suppress(OSError, ValueError, IndexError):
        name, *fields = stat.read_text().partition("\n")[0].split()
        user, nice, system, _idle, _wait, irq, softirq, steal = (int(field) / _TICKS for field in fields[:8])
        used = user + nice + system + irq + softirq
        if name == "cpu" and used:
            return Reading(at=time.monotonic(), used=used, stolen=steal, own=sum(os.times()[:4]))
    return None


def cores() -> int:
    """The cores of the machine."""
    return os.cpu_count() or 1


def of_processes(pids: Iterable[int], proc: Path = Path("/proc")) -> float:
    """Seconds that these processes and their ended children have used since they started; gone processes count 0."""
    ticks = 0
    for pid in pids:
        with suppress(OSError, ValueError):
            fields = (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS


def of_container(
    identifier: str, pid: int, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")
) -> float | None:
    """Seconds that a container has used, from the control group of its first process `pid`.

    None unless that process is of this machine and its group is named for the container, and without control groups.
    """
    with suppress(OSError, ValueError, StopIteration):
        lines = [line.split(":", 2) for line in (proc / str(pid) / "cgroup").read_text().splitlines()]
        of = {
            name: path.lstrip("/") for _number, names, path in lines if identifier in path for name in names.split(",")
        }
        if "cpuacct" in of:  # version 1
            return int((groups / "cpuacct" / of["cpuacct"] / "cpuacct.usage").read_text()) / 1e9
        if "" in of:  # version 2
            fields = (line.split() for line in (groups / of[""] / "cpu.stat").read_text().splitlines())
            return next(int(value) for name, value in fields if name == "usage_usec") / 1e6
    return None
