"""A proxy in front of an HTTP service that loses, delays, repeats and reorders calls, as a test tells it to.

Each call gets a connection of its own, since the proxy asks the service to close it after the answer; what follows the
first request is passed on as bytes, so that streams and Docker's hijacked connections work.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["delay", "drop", "reset", "cut", "lost", "duplicate", "reorder", "status"]
"""`delay`: `seconds` later. `drop`: silence for `seconds`, then a reset. `reset`: at once. `cut`: a reset after `bytes`
of the answer. `lost`: the service gets the request, and a reset takes the place of its answer. `duplicate`: it gets the
request twice. `reorder`: after the next call, or `seconds` later. `status`: that status and `headers` instead."""

_TLS = b"\x16"
_REPEATED_BYTES = 1 << 20
_ANSWER_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Fault:
    kind: Kind
    seconds: float = 0.0
    bytes: int = 0
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)


Plan = Callable[[int, str, str], Fault | None]
"""The fault of a call, by its number (from 0), method and path."""


def at_random(seed: int, share: float, *, silence: float) -> Plan:
    """A plan in which this share of the calls goes wrong; the same for the same seed and the same order of calls."""

    def plan(number: int, _method: str, _path: str) -> Fault | None:
        draw = random.Random(f"{seed} {number}")
        if draw.random() >= share:
            return None
        kind: Kind = draw.choice(("delay", "delay", "drop", "reset", "cut", "lost", "duplicate", "reorder"))
        seconds = silence if kind == "drop" else draw.uniform(0.1, 5.0)
        return Fault(kind=kind, seconds=seconds, bytes=draw.choice((0, 1, 200, 5000, 300_000)))

    return plan


Address = tuple[str, int] | Path
"""A host and port, or a Unix socket."""


@dataclass
class Proxy:
    upstream: Address
    plan: Plan = lambda _number, _method, _path: None
    calls: list[str] = field(default_factory=list)
    """Each call with its fault."""
    received: int = 0
    """The bytes of the bodies of all calls; of those that are sent in chunks, with their frames."""
    returned: int = 0
    """The bytes of all answers, with their headers."""
    url: str = ""
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def running(self, listen: Path | None = None) -> Iterator[Proxy]:
        """Serve on a free port of loopback, or on the Unix socket `listen`."""
        loop = asyncio.new_event_loop()
        started = threading.Event()

        def serve() -> None:
            asyncio.set_event_loop(loop)
            if listen is None:
                server = loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0))
                self.url = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            else:
                server = loop.run_until_complete(asyncio.start_unix_server(self._connected, listen))
                self.url = f"unix://{listen}"
            started.set()
            loop.run_forever()
            server.close()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0.05))
            loop.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        started.wait()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            if (first := await reader.readexactly(1)) == _TLS:
                writer.transport.abort()  # Docker tries it first, and would wait for an answer
                return
            head = first + await reader.readuntil(b"\r\n\r\n")
            method, path, _ = head.split(b"\r\n")[0].decode().split(" ", 2)
            number = len(self.calls)
            fault = self.plan(number, method, path)
            self.calls.append(f"{number} {method} {path}" + (f" → {fault}" if fault else ""))
            self._moved.set()
            await self._pass(_closing(head), reader, writer, fault)
        with suppress(OSError):
            writer.close()

    async def _pass(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault | None
    ) -> None:
        kind = fault.kind if fault else None
        if fault and kind in ("delay", "drop"):
            await asyncio.sleep(fault.seconds)
        elif fault and kind == "reorder":
            self._moved.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), fault.seconds)
            await asyncio.sleep(0.05)
        if kind in ("drop", "reset"):
            writer.transport.abort()
            return
        if fault and kind == "status":
            headers = {"Content-Length": "0", "Connection": "close", **fault.headers}
            lines = [f"HTTP/1.1 {fault.status} As asked", *(f"{name}: {value}" for name, value in headers.items())]
            writer.write("\r\n".join((*lines, "", "")).encode())
            await writer.drain()
            return
        length = _length(head)
        if kind in ("duplicate", "lost") and length is not None and length <= _REPEATED_BYTES:
            head += await reader.readexactly(length)
            await self._answered(head)
            if kind == "lost":
                writer.transport.abort()
                return
        async with self._upstream() as (source, sink):
            sink.write(head)
            most = fault.bytes if fault and kind == "cut" else None
            sending = asyncio.create_task(_copy(reader, sink, None, self._count_body))
            try:
                if not await _copy(source, writer, most, self._count):
                    writer.transport.abort()
            finally:
                sending.cancel()

    def _count(self, moved: int) -> None:
        self.returned += moved

    def _count_body(self, moved: int) -> None:
        self.received += moved

    async def _answered(self, request: bytes) -> None:
        """Send a whole request and read its answer, or for a stream its beginning."""
        async with self._upstream() as (source, sink):
            sink.write(request)
            with suppress(TimeoutError):
                await asyncio.wait_for(source.read(-1), _ANSWER_SECONDS)

    @asynccontextmanager
    async def _upstream(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        if isinstance(self.upstream, Path):
            source, sink = await asyncio.open_unix_connection(self.upstream)
        else:
            source, sink = await asyncio.open_connection(*self.upstream)
        try:
            yield source, sink
        finally:
            with suppress(OSError):
                sink.close()


async def _copy(
    source: asyncio.StreamReader,
    sink: asyncio.StreamWriter,
    most: int | None,
    count: Callable[[int], None] = lambda _moved: None,
) -> bool:
    """Pass bytes on until the end, or until `most` have been; False in the latter case."""
    moved = 0
    with suppress(OSError):
        while data := await source.read(65536):
            if most is not None and moved + len(data) > most:
                sink.write(data[: most - moved])
                await sink.drain()
                return False
            moved += len(data)
            count(len(data))
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
    return True


def _closing(head: bytes) -> bytes:
    """The request, with the wish to close the connection after the answer, unless it becomes a stream of its own."""
    if re.search(rb"(?im)^upgrade:", head):
        return head
    kept = [line for line in head[:-4].split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join((*kept, b"Connection: close")) + b"\r\n\r\n"


def _length(head: bytes) -> int | None:
    """The bytes of the request's body; None if they are not known or it becomes a stream."""
    if re.search(rb"(?im)^(transfer-encoding|upgrade|expect):", head):
        return None
    found = re.search(rb"(?im)^content-length: *(\d+)", head)
    return int(found[1]) if found else 0
