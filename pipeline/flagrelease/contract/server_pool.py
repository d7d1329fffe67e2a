"""Servers that stay up from one stage of a cell to the next.

Only where the matrix says that the chip holds both stacks beside each other (`serve.colocate`): an engine for an
accelerator takes a minute to start, and three stages in a row need the same two.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol

from flagrelease.ports.container_runner import Running

Key = tuple[str, str, str]
"""Image reference, weights digest, stack."""


class Server(Protocol):
    """What can be left standing: serving.Served."""

    @property
    def running(self) -> Running: ...


class ServerPool:
    """The servers of one cell that nobody is using right now, and what is held for as long as there may be any."""

    def __init__(self) -> None:
        self._servers: dict[Key, Server] = {}
        self._held = ExitStack()
        self._holding = False

    def __bool__(self) -> bool:
        return bool(self._servers)

    def hold(self, take: Callable[[ExitStack], None]) -> None:
        """Take the chip's host once, until `close`: between two stages it is not free."""
        if not self._holding:
            take(self._held)
            self._holding = True

    def take(self, key: Key) -> Server | None:
        """The server with this key, if it still runs. It is the caller's to stop or to leave again."""
        found = self._servers.get(key)
        if found is None:
            return None
        over = found.running.ended() is not None  # where that cannot be asked it stays ours to stop
        del self._servers[key]
        if over:
            found.running.stop()
            return None
        return found

    def leave(self, key: Key, server: Server) -> None:
        self._servers[key] = server

    def close(self) -> None:
        """Stop all of them, also where one cannot be stopped, and let the host go."""
        self._holding = False
        with self._held as leaving:
            while self._servers:
                leaving.callback(self._servers.popitem()[1].running.stop)
