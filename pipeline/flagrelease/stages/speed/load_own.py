"""Load from flagrelease's own streaming client, for engines whose image has no load generator.

Prompts are lists of random token ids, which llama.cpp, vLLM and SGLang accept at /v1/completions: no tokenizer is
needed and every prompt has exactly the requested length. Suitable for tens of concurrent requests, not for thousands.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from flagrelease.ports.event_stream import DONE, EventStream, ReportedError, event
from flagrelease.ports.http import refusal
from flagrelease.stages.speed.load import Load, LoadPoint, LoadTool, Request, is_token_count, reported_load

if TYPE_CHECKING:
    import httpx

__all__ = ["LOAD_TOOL", "StreamingLoad"]

# Ordinary tokens in every vocabulary of 32,000 tokens or more; control tokens are at the ends.
_TOKENS = range(1_000, 20_000)


class StreamingLoad:
    """Sends requests for `model` to `base_url` (ends in /v1), each limited to `seconds`."""

    name = "flagrelease's own streaming client"

    def __init__(self, base_url: str, model: str, *, seconds: float = 1800.0) -> None:
        self._base_url = base_url
        self._model = model
        self._seconds = seconds

    def measure(self, points: Sequence[LoadPoint], seed: int) -> list[Load]:
        """See LoadGenerator.measure."""
        import asyncio  # the declaration of the stage reaches this module, and `plan` does not need it

        return [asyncio.run(self._measure(point, seed)) for point in points]

    async def _measure(self, point: LoadPoint, seed: int) -> Load:
        import asyncio

        import httpx

        bodies = iter(self._bodies(point, seed))
        responses: list[_Response] = []
        # Servers close idle connections and lose a request sent at that moment: use a new connection for each.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        timeout = httpx.Timeout(self._seconds, connect=10.0)
        async with httpx.AsyncClient(
            base_url=self._base_url, limits=limits, timeout=timeout, trust_env=False
        ) as client:
            start = time.perf_counter()

            async def stream() -> None:
                responses.extend([await _ask(client, body, start) for body in bodies])

            await asyncio.gather(*(stream() for _ in range(point.concurrency)))
            seconds = time.perf_counter() - start
        responses.sort(key=lambda response: response.start)
        gaps = (gap for response in responses for gap in response.gaps())
        return reported_load((response.request(point) for response in responses), seconds=seconds, gaps=gaps)

    def _bodies(self, point: LoadPoint, seed: int) -> Iterator[bytes]:
        chosen = random.Random(seed)
        prompts = [chosen.choices(_TOKENS, k=point.input_tokens) for _ in range(point.requests)]
        for prompt in prompts:
            yield json.dumps(
                {
                    "model": self._model,
                    "prompt": prompt,
                    "max_tokens": point.output_tokens,
                    "temperature": 0,
                    "ignore_eos": True,
                    "stream": True,
                    "stream_options": {"include_usage": True},
                }
            ).encode()


@dataclass
class _Response:
    """The events of one request; times by perf_counter."""

    start: float
    run_start: float
    tokens: list[float] = field(default_factory=list)
    """Arrival times of the events with a token."""
    end: float = 0.0
    """Arrival time of the last event with a token or a finish reason."""
    usage: dict[str, Any] = field(default_factory=dict)
    done: bool = False
    error: str = ""

    def parse(self, data: str) -> None:
        """Parse an event. Raises ReportedError, or ValueError or AttributeError if it is malformed."""
        if data == DONE:
            self.done = True
            return
        found = event(data)
        if isinstance(found.get("usage"), dict):
            self.usage = found["usage"]
        for choice in found["choices"]:
            self.end = time.perf_counter()
            # The last event has the finish reason and maybe no token; a token without text may be part of a character.
            if choice.get("text") or not choice.get("finish_reason"):
                self.tokens.append(self.end)

    def finish(self) -> None:
        """Judge the whole answer: one that was cut, or whose tokens are not counted, has failed."""
        if not (self.done and self.tokens):
            self.error = "the stream ended early"
            return
        for name in ("prompt_tokens", "completion_tokens"):
            count = self.usage.get(name)
            if not is_token_count(count):
                self.error = f"the server does not count the tokens: {name} is {count!r}"[:200]
                return

    def gaps(self) -> Iterator[float]:
        return (later - earlier for earlier, later in pairwise(self.tokens)) if not self.error else iter(())

    def request(self, point: LoadPoint) -> Request:
        error = self.error
        return Request(
            start_s=round(self.start - self.run_start, 6),
            ttft_s=0.0 if error else round(self.tokens[0] - self.start, 6),
            e2e_s=0.0 if error else round(self.end - self.start, 6),
            input_tokens=point.input_tokens if error else self.usage["prompt_tokens"],
            output_tokens=0 if error else self.usage["completion_tokens"],
            error=error,
        )


async def _ask(client: httpx.AsyncClient, body: bytes, run_start: float) -> _Response:
    import httpx

    response = _Response(start=time.perf_counter(), run_start=run_start)
    headers = {"Content-Type": "application/json"}
    try:
        async with client.stream("POST", "/completions", content=body, headers=headers) as answer:
            if answer.status_code != 200:
                response.error = refusal(answer.status_code, await answer.aread())[:200]
                return response
            events = EventStream()
            async for block in answer.aiter_bytes():
                for data in events.feed(block):
                    response.parse(data)
            for data in events.end():
                response.parse(data)
        if events.document:
            response.error = refusal(answer.status_code, events.document)[:200]
        else:
            response.finish()
    except ReportedError as error:
        response.error = str(error)[:200]
    except httpx.HTTPError as error:
        response.error = f"{type(error).__name__}: {error}"[:200]
    except (ValueError, AttributeError) as error:
        response.error = f"protocol violation: {type(error).__name__}: {error}"[:200]
    return response


LOAD_TOOL = LoadTool(make=lambda target, _env: StreamingLoad(target.base_url, target.model))
