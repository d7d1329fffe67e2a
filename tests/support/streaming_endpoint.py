"""A completions endpoint on loopback that streams tokens at the pace that a test sets."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Pace:
    """`first` seconds until the first token, `each` until every further one. `refuse` answers 503 to every n-th
    request (0: to none); `cut` ends every stream after that many tokens, without a word; `raw` is the body of every
    answer, of the status `status`, instead."""

    first: float = 0.02
    each: float = 0.005
    refuse: int = 0
    cut: int = 0
    raw: bytes = b""
    status: int = 200
    requests: list[dict[str, Any]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0


@contextmanager
def streaming(pace: Pace) -> Iterator[str]:
    """Serve until the block ends; gives the address, which ends in /v1."""
    loop = asyncio.new_event_loop()
    address: list[int] = []
    started = threading.Event()

    def serve() -> None:
        asyncio.set_event_loop(loop)
        server = loop.run_until_complete(asyncio.start_server(lambda r, w: _connected(pace, r, w), "127.0.0.1", 0))
        address.append(server.sockets[0].getsockname()[1])
        started.set()
        loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    started.wait()
    try:
        yield f"http://127.0.0.1:{address[0]}/v1"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _connected(pace: Pace, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length:")[2].partition("\r\n")[0])
        request = json.loads(await reader.readexactly(length))
        pace.requests.append(request)
        pace.in_flight += 1
        pace.most_in_flight = max(pace.most_in_flight, pace.in_flight)
        try:
            await _answer(pace, request, len(pace.requests), writer)
        finally:
            pace.in_flight -= 1
    writer.close()


async def _answer(pace: Pace, request: dict[str, Any], number: int, writer: asyncio.StreamWriter) -> None:
    if pace.refuse and number % pace.refuse == 0:
        writer.write(b"HTTP/1.1 503 X\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy")
        await writer.drain()
        return
    status = f"HTTP/1.1 {pace.status} X\r\n".encode()
    writer.write(status + b"Content-Type: text/event-stream\r\nConnection: close\r\n\r\n" + pace.raw)
    if pace.raw:
        await writer.drain()
        return
    tokens = request["max_tokens"]
    for at in range(tokens):
        await asyncio.sleep(pace.each if at else pace.first)
        writer.write(_event({"object": "text_completion", "choices": [{"text": f" {at}", "finish_reason": None}]}))
        await writer.drain()
        if at + 1 == pace.cut:
            return
    usage = {"prompt_tokens": len(request["prompt"]), "completion_tokens": tokens}
    writer.write(_event({"choices": [{"text": "", "finish_reason": "length"}]}))
    writer.write(_event({"choices": [], "usage": usage}) + b"data: [DONE]\n\n")
    await writer.drain()


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()
