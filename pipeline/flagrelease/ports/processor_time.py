"""Read the processor time that processes and the machine have used, from /proc."""

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
