"""Measure how much processor time other programs take while servers are compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flagrelease.contract.speed_results import OtherWork
from flagrelease.ports import processor_time
from flagrelease.ports.container_runner import Running
from flagrelease.ports.processor_time import Reading


def mean(parts: Iterable[OtherWork | None]) -> OtherWork | None:
    """The average over all times at which it is known."""
    known = [part for part in parts if part is not None and part.seconds > 0]
    if not known:
        return None
    seconds = sum(part.seconds for part in known)
    return OtherWork(
        seconds=seconds,
        cores=known[-1].cores,
        others=sum(part.others * part.seconds for part in known) / seconds,
        stolen=sum(part.stolen * part.seconds for part in known) / seconds,
    )


class Watch:
    """Compares two readings of the machine and of the servers on it."""

    def __init__(self, *servers: Running) -> None:
        self._servers = servers
        self._before = self._read()

    def used(self) -> tuple[list[float | None], OtherWork | None]:
        """The processor seconds of each server since the last call, and the other work; None for what is unknown."""
        (before, servers_before), (now, servers_now) = self._before, self._read()
        self._before = now, servers_now
        used = [
            None if first is None or last is None else max(0.0, last - first)
            for first, last in zip(servers_before, servers_now, strict=True)
        ]
        return used, _between(before, now, used)

    def _read(self) -> tuple[Reading | None, list[float | None]]:
        return processor_time.read(), [server.cpu_seconds() for server in self._servers]


def _between(before: Reading | None, now: Reading | None, servers: Sequence[float | None]) -> OtherWork | None:
    known = [seconds for seconds in servers if seconds is not None]
    if before is None or now is None or len(known) != len(servers) or now.at <= before.at:
        return None
    seconds = now.at - before.at
    others = now.used - before.used - (now.own - before.own) - sum(known)
    return OtherWork(
        seconds=seconds,
        cores=processor_time.cores(),
        others=max(0.0, others) / seconds,
        stolen=max(0.0, now.stolen - before.stolen) / seconds,
    )
