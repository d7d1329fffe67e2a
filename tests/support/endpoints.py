"""A chat endpoint on loopback that answers as a test tells it to: well, wrong, slowly, or not at all."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Said:
    """What goes over the wire. `cut` sends only that many bytes of the body and closes."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    cut: int | None = None
    chunked: bool = False


Answer = Callable[[dict[str, Any], int], Said]


def chat(text: str, *, finish: str = "stop", tokens: int = 5, **choice: Any) -> Said:
    message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish, **choice}
    body = {
        "choices": [message],
        "usage": {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens},
    }
    return Said(json.dumps(body).encode())


def letters(scores: dict[str, float]) -> Said:
    """A first token with these log-probabilities, in llama.cpp's and vLLM's shape."""
    top = [{"token": token, "logprob": value} for token, value in scores.items()]
    first = max(scores, key=scores.__getitem__)
    content = [{"token": first, "logprob": scores[first], "top_logprobs": top}]
    return chat(first, finish="length", tokens=1, logprobs={"content": content})


class Endpoint:
    """`answer(request, n)` is called for the n-th request (from 1) with the same prompt."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []
        self.in_flight = self.most_in_flight = 0
        self.base_url = ""
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._started.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def start(self) -> Endpoint:
        self._thread.start()
        self._started.wait()
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length:")[2].partition("\r\n")[0])
        request = json.loads(await reader.readexactly(length))
        if "messages" not in request:  # it chats, and does nothing else
            writer.write(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return True
        prompt = request["messages"][-1]["content"]
        self.requests.append(request)
        self.asked[prompt] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            said = self.answer(request, self.asked[prompt])
            await asyncio.sleep(said.seconds)
        finally:
            self.in_flight -= 1
        lines = [f"HTTP/1.1 {said.status} X", *(f"{name}: {value}" for name, value in said.headers.items())]
        if said.chunked:
            half = len(said.body) // 2
            parts = [b"%x\r\n%s\r\n" % (len(part), part) for part in (said.body[:half], said.body[half:], b"")]
            writer.write("\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]).encode() + b"".join(parts))
        else:
            head_out = "\r\n".join([*lines, f"Content-Length: {len(said.body)}", "", ""]).encode()
            writer.write(head_out + said.body[: said.cut])
        await writer.drain()
        return said.cut is None and said.headers.get("Connection") != "close"


@contextmanager
def serving(answer: Answer) -> Iterator[Endpoint]:
    endpoint = Endpoint(answer).start()
    try:
        yield endpoint
    finally:
        endpoint.stop()
