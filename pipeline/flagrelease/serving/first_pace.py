"""Measure how fast a server is, before an evaluation knows it by its answers."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

from flagrelease.errors import SmokeFailed
from flagrelease.ports.openai_client import Client, NoAnswer, Reply

_PROMPT = "Count from one to a hundred in words."
_TOKENS = 16
_MOST_REQUESTS = 64
_LIMIT_SECONDS = 300.0


def token_seconds(base_url: str, model: str, concurrency: int, *, limit: float = _LIMIT_SECONDS) -> float:
    """Seconds a token of the slowest of short answers, as many at a time as the evaluation will ask; 0 if the server
    does not give them.

    Raises SmokeFailed if it accepts the requests and does not answer within `limit`: it has answered once, to become
    ready.
    """
    count = min(concurrency, _MOST_REQUESTS)
    messages = [{"role": "user", "content": _PROMPT}]
    body = {"model": model, "messages": messages, "max_tokens": _TOKENS, "temperature": 0}

    def one(_number: int) -> float:
        start = time.monotonic()
        with Client(base_url, seconds=limit) as client:
            reply = client.post("/chat/completions", body)
        return (time.monotonic() - start) / _tokens(reply)

    try:
        with ThreadPoolExecutor(max_workers=count) as pool:
            return max(pool.map(one, range(count)))
    except NoAnswer as error:
        if "ReadTimeout" not in str(error):
            return 0.0  # nobody is there: the evaluation says so, with the server's log
        raise SmokeFailed(
            "the server has stopped answering",
            why=f"{count} requests for {_TOKENS} tokens got no answer within {limit:.0f} s",
            hint="see the server's log; run again: answers are kept",
        ) from None
    except (SmokeFailed, ValueError):
        return 0.0  # the evaluation says what is wrong with its answers


def _tokens(reply: Reply) -> int:
    """Raises ValueError for a reply that does not say how many tokens it has."""
    try:
        return max(1, int(json.loads(reply.body)["usage"]["completion_tokens"]))
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"status {reply.status}, without a count of tokens") from error
