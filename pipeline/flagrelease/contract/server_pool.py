"""Keep servers running between the stages of a cell.

Used only if the chip has memory for both stacks at once (`serve.colocate`): an accelerator's engine takes a minute to
start, and three successive stages need the same two servers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol

from flagrelease.ports.container_runner import Running

Key = tuple[str, str, str]
"""Image reference, weights digest, stack."""


class Server(Protocol):
    """A server that can be kept running: serving.Served."""

    @property
    def running(self) -> Running: ...


class ServerPool:
    """The idle servers of one cell, and the lock on the chip's host that protects them."""

    def __init__(self) -> None:
        self._servers: dict[Key, Server] = {}
        self._held = ExitStack()
        self._holding = False

    def __bool__(self) -> bool:
        return bool(self._servers)

    def hold(self, take: Callable[[ExitStack], None]) -> None:
        """Lock the chip's host until `close`, once: it must not become free between two stages."""
        if not self._holding:
            take(self._held)
            self._holding = True

    def take(self, key: Key) -> Server | None:
        """The server with this key if it still runs. The caller then has to stop it or `leave` it again."""
        server = self._servers.get(key)
        if server is None:
            return None
        ended = server.running.ended() is not None  # if this raises, the server stays in the pool for `close` to stop
        del self._servers[key]
        if ended:
            server.running.stop()
            return None
        return server

    def leave(self, key: Key, server: Server) -> None:
        """Put a running server into the pool."""
        self._servers[key] = server

    def close(self) -> None:
        """Stop all servers, even if stopping one of them fails, and release the host."""
        self._holding = False
        with self._held as leaving:
            while self._servers:
                leaving.callback(self._servers.popitem()[1].running.stop)
