"""A tiny language model on loopback that speaks vLLM's or llama.cpp's dialect of the completions protocol.

As llama.cpp's server does, that dialect says nothing of a lone token that is part of a character (here: PART).
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Dialect = Literal["vllm", "llama.cpp", "bare"]
WORDS = 30
PART = 7


class Model:
    """Its next token depends on the last two; `skew` moves every probability, `flip_after` the choice from there on."""

    def __init__(self, *, skew: float = 0.0, flip_after: int | None = None, end_after: int = 1000) -> None:
        self.skew, self.flip_after, self.end_after = skew, flip_after, end_after

    def top(self, tokens: Sequence[int], count: int) -> dict[int, float]:
        state = (tokens[-1] * 7 + tokens[-2] * 3) % WORDS if len(tokens) > 1 else tokens[-1]
        logits = [math.cos(1.3 * word + state) * (2.0 + self.skew) for word in range(WORDS)]
        if self.flip_after is not None and len(tokens) >= self.flip_after:
            logits.reverse()
        total = math.log(math.fsum(map(math.exp, logits)))
        ranked = sorted(range(WORDS), key=lambda word: -logits[word])[:count]
        return {word: logits[word] - total for word in ranked}

    def generate(self, prompt: Sequence[int], count: int, named: int) -> tuple[list[int], list[dict[int, float]]]:
        tokens, tops = list(prompt), []
        while len(tokens) < min(len(prompt) + count, self.end_after):
            tops.append(self.top(tokens, named))
            tokens.append(next(iter(tops[-1])))
        return tokens[len(prompt) :], tops


@contextmanager
def serving(model: Model, dialect: Dialect) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The base URL, ending with /v1, and all completion requests so far."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/tokenize":
                text = request["prompt" if dialect == "vllm" else "content"]
                return self.reply({"tokens": [byte % WORDS for byte in text.encode()][-8:]})
            asked.append(request)
            return self.reply({"choices": [_choice(model, dialect, request)]})

        def reply(self, document: object) -> None:
            body = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _choice(model: Model, dialect: Dialect, request: dict[str, Any]) -> dict[str, Any]:
    prompt = request["prompt"]
    tokens, tops = model.generate(prompt, request["max_tokens"], request.get("logprobs") or 1)
    if dialect == "llama.cpp":
        rows = [
            {"id": token, "top_logprobs": [{"id": word, "logprob": value} for word, value in top.items()]}
            for token, top in zip(tokens, tops, strict=True)
        ]
        ended = len(tokens) < request["max_tokens"]
        named = "logprobs" in request and rows and tokens != [PART]
        logprobs = {"content": rows} if named else None
        return {"text": "word" * len(rows), "finish_reason": "stop" if ended else "length", "logprobs": logprobs}
    if dialect == "bare":
        return {"text": "word", "finish_reason": "length", "logprobs": None}
    columns = {
        "tokens": [f"token_id:{token}" for token in tokens],
        "top_logprobs": [{f"token_id:{word}": value for word, value in top.items()} for top in tops],
    }
    found: dict[str, Any] = {"text": "", "logprobs": columns if "logprobs" in request else None}
    if named := request.get("prompt_logprobs"):
        scored = [model.top(prompt[:end], named) for end in range(1, len(prompt))]
        rows_of_ids = [{str(word): {"logprob": value, "rank": 1} for word, value in top.items()} for top in scored]
        found["prompt_logprobs"] = [None, *rows_of_ids]
    return found
