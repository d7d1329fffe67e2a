"""Greedy continuations and teacher-forced log-probabilities of a served model, by its completions endpoint.

Prompts go out as token ids, so that two servers read the same ones. vLLM scores a whole continuation in one request
(`prompt_logprobs`). llama.cpp's server scores only what it generates, so there each position is a request for one token
after the tokens before it, which its prompt cache makes cheap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flagrelease.ports.openai_client import Client

__all__ = ["TOP", "Continuation", "NotOffered", "Probabilities", "ServedProbabilities", "TopLogprobs"]

TOP = 20
"""Tokens named at each position: what vLLM allows unless it is told otherwise (`--max-logprobs`)."""

_LONGEST_CHARACTER = 4
"""Bytes, and so at most tokens, of a character: llama.cpp's server names a token only when its character is whole."""

TopLogprobs = Mapping[str, float]
"""Token id as text → natural logarithm of its probability; the most likely ones, and perhaps the one that came."""


class NotOffered(Exception):
    """The server does not answer with what is asked for here; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What a server generated at temperature 0, and the most likely tokens at each of these positions."""

    tokens: tuple[int, ...]
    top: tuple[TopLogprobs, ...]


class Probabilities(Protocol):
    """One served model. All raise NotOffered, and NoAnswer where the connection failed."""

    @property
    def method(self) -> str:
        """How continuations are scored, for people; known after the first `forced`."""
        ...

    def tokens(self, text: str) -> tuple[int, ...]: ...

    def greedy(self, prompt: Sequence[int], count: int) -> Continuation:
        """Up to `count` tokens; fewer where the model ends."""
        ...

    def forced(self, prompt: Sequence[int], tokens: Sequence[int], own: Continuation) -> tuple[TopLogprobs, ...]:
        """The most likely tokens at each position of `tokens`. `own` is this server's greedy continuation."""
        ...


class ServedProbabilities:
    """Asks a server that speaks vLLM's or llama.cpp's dialect of the completions protocol."""

    def __init__(self, base_url: str, model: str, *, seconds: float = 120.0) -> None:
        self._client = Client(base_url, seconds=seconds)
        self._root = base_url.removesuffix("/v1")
        self._model = model
        self._whole: bool | None = None

    def __enter__(self) -> ServedProbabilities:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.__exit__()

    @property
    def method(self) -> str:
        return "the whole continuation in one request" if self._whole else "one position a request"

    def tokens(self, text: str) -> tuple[int, ...]:
        """`prompt` is vLLM's name for the text, `content` llama.cpp's; each passes over the other's."""
        body = {"model": self._model, "prompt": text, "content": text, "add_special": True}
        found = self._post(f"{self._root}/tokenize", body).get("tokens")
        if not isinstance(found, list) or not found or not all(isinstance(token, int) for token in found):
            raise NotOffered("the server does not tell how it splits a text into tokens (/tokenize)")
        return tuple(found)

    def greedy(self, prompt: Sequence[int], count: int) -> Continuation:
        choice = self._complete(prompt, max_tokens=count, logprobs=TOP)
        return _continuation(choice)

    def forced(self, prompt: Sequence[int], tokens: Sequence[int], own: Continuation) -> tuple[TopLogprobs, ...]:
        if self._whole is not False:
            scored = self._scored(prompt, tokens)
            self._whole = scored is not None
            if scored is not None:
                return scored
        # Up to the first difference, and at it, the server's own continuation stood after the same tokens.
        same = next((i for i, (a, b) in enumerate(zip(tokens, own.tokens, strict=False)) if a != b), len(own.tokens))
        found = list(own.top[: same + 1][: len(tokens)])
        found += [self._next([*prompt, *tokens[:position]]) for position in range(len(found), len(tokens))]
        return tuple(found)

    def _next(self, prompt: Sequence[int]) -> TopLogprobs:
        """The next token's; nothing where the model would end here."""
        for count in (1, _LONGEST_CHARACTER):
            choice = self._complete(prompt, max_tokens=count, logprobs=TOP)
            if choice.get("logprobs") is not None:
                return _continuation(choice).top[0]
        return {}

    def _scored(self, prompt: Sequence[int], tokens: Sequence[int]) -> tuple[TopLogprobs, ...] | None:
        """All positions at once; None where the server passes over the request's `prompt_logprobs`."""
        found = self._complete([*prompt, *tokens], max_tokens=1, prompt_logprobs=TOP).get("prompt_logprobs")
        if not isinstance(found, list) or len(found) != len(prompt) + len(tokens):
            return None
        try:
            rows = found[len(prompt) :]
            return tuple({str(token): float(entry["logprob"]) for token, entry in row.items()} for row in rows)
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def _complete(self, prompt: Sequence[int], **more: Any) -> Mapping[str, Any]:
        body = {"model": self._model, "prompt": list(prompt), "temperature": 0, "return_tokens_as_token_ids": True}
        document = self._post("/completions", body | more)
        match document.get("choices"):
            case [dict() as choice, *_]:
                return choice
        raise NotOffered("the server's completions have no choices")

    def _post(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        reply, name = self._client.post(path, body), path.rpartition("/")[2]
        if reply.status != 200:
            said = f": {reply.body[:120]}" if reply.body else ""
            raise NotOffered(f"the server answers {name} with HTTP {reply.status}{said}")
        try:
            document = json.loads(reply.body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise NotOffered(f"the server answers {name} with something that is no JSON object")
        return document


def _continuation(choice: Mapping[str, Any]) -> Continuation:
    """Reads llama.cpp's list of entries with ids, or vLLM's columns whose tokens are spelt `token_id:7`."""
    found = choice.get("logprobs")
    if found is None and choice.get("finish_reason") == "stop" and choice.get("text") == "":
        return Continuation(tokens=(), top=())  # llama.cpp on a model that ends at once
    try:
        if isinstance(found, dict) and isinstance(found.get("content"), list):
            rows = found["content"]
            tops = [{str(int(one["id"])): float(one["logprob"]) for one in row["top_logprobs"]} for row in rows]
            return Continuation(tokens=tuple(int(row["id"]) for row in rows), top=tuple(tops))
        if isinstance(found, dict) and isinstance(found.get("top_logprobs"), list):
            columns = found["top_logprobs"]
            tops = [{str(_id(token)): float(value) for token, value in row.items()} for row in columns]
            return Continuation(tokens=tuple(map(_id, found["tokens"])), top=tuple(tops))
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise NotOffered("the server gives no log-probabilities by token id")


def _id(token: str) -> int:
    return int(token.removeprefix("token_id:"))
