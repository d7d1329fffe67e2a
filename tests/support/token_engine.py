"""A tiny language model on loopback that speaks vLLM's or llama.cpp's dialect of the completions protocol.

As llama.cpp's server does, that dialect does not list a token that is part of a character (here: PART), and a grammar
of token ids does not admit it.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from support.endpoints import letters

Dialect = Literal["vllm", "llama.cpp", "bare"]
"""`bare` is vLLM's without log-probabilities."""
WORDS = 30
PART = 7


class Model:
    """Its next token depends on the last two.

    `skew` moves every probability, `decode_skew` only those computed token by token, `flip_after` the choice from that
    position on, `head` is what its chat template writes before a chat.
    """

    def __init__(
        self, *, skew: float = 0.0, decode_skew: float = 0.0, flip_after: int | None = None, head: str = "<chat>"
    ) -> None:
        self.skew, self.decode_skew, self.flip_after, self.head = skew, decode_skew, flip_after, head

    def top(self, tokens: Sequence[int], count: int, *, skew: float = 0.0) -> dict[int, float]:
        state = (tokens[-1] * 7 + tokens[-2] * 3) % WORDS if len(tokens) > 1 else tokens[-1]
        flipped = self.flip_after is not None and len(tokens) >= self.flip_after
        return dict(_top(state, 2.0 + self.skew + skew, flipped)[:count])

    def generate(
        self, prompt: Sequence[int], count: int, named: int, forced: Sequence[int] = ()
    ) -> tuple[list[int], list[dict[int, float]]]:
        tokens, tops = list(prompt), []
        while len(tokens) < len(prompt) + count:
            tops.append(self.top(tokens, named, skew=self.decode_skew))
            tokens.append(forced[len(tops) - 1] if forced else next(iter(tops[-1])))
        return tokens[len(prompt) :], tops

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        return self.head + "".join(f"{message['role']}:{message['content']};" for message in messages)


@cache
def _top(state: int, sharpness: float, flipped: bool) -> list[tuple[int, float]]:
    """All words and the logarithms of their probabilities, the likeliest first."""
    logits = [math.cos(1.3 * word + state) * sharpness for word in range(WORDS)]
    if flipped:
        logits.reverse()
    total = math.log(math.fsum(map(math.exp, logits)))
    return [(word, logits[word] - total) for word in sorted(range(WORDS), key=lambda word: -logits[word])]


def split(text: str) -> list[int]:
    return [byte % WORDS for byte in text.encode()]


@contextmanager
def serving(model: Model, dialect: Dialect) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The base URL, ending with /v1, and all completion requests so far."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            match dialect, self.path:
                case "llama.cpp", "/tokenize":
                    return self.reply({"tokens": split(request.get("content", ""))})
                case _, "/tokenize":
                    return self.reply({"tokens": split(model.render(request["messages"]))})
                case "llama.cpp", "/apply-template":
                    return self.reply({"prompt": model.render(request["messages"])})
            asked.append(request)
            if self.path == "/v1/chat/completions":
                return self.reply(json.loads(letters({"B": -0.1, "A": -3.0}).body))
            if self.path == "/completion":
                return self.reply(_completion(model, request))
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


def _completion(model: Model, request: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp's own completions."""
    forced = [int(token) for token in re.findall(r"<\[(\d+)\]>", request.get("grammar", ""))]
    tokens, tops = model.generate(request["prompt"], request["n_predict"], request["n_probs"], forced)
    rows = [
        {"id": token, "top_logprobs": [{"id": word, "logprob": value} for word, value in top.items()]}
        for token, top in zip(tokens, tops, strict=True)
        if token != PART
    ]
    return {"completion_probabilities": rows, **({"tokens": tokens} if request.get("return_tokens") else {})}


def _choice(model: Model, dialect: Dialect, request: dict[str, Any]) -> dict[str, Any]:
    prompt = request["prompt"]
    tokens, tops = model.generate(prompt, request["max_tokens"], request.get("logprobs") or 1)
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
