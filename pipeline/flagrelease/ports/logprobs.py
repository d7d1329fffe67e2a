"""Get greedy continuations and teacher-forced log-probabilities from a model's completions endpoint.

Prompts are sent as token ids, so that two servers read the same tokens. vLLM scores a complete continuation in one
request (`prompt_logprobs`). llama.cpp's server scores only the tokens it generates, so each position takes a request
for one token after all the tokens before it; its prompt cache makes that cheap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flagrelease.ports.openai_client import Client

__all__ = ["TOP", "Continuation", "NotOffered", "Probabilities", "ServedProbabilities", "TopLogprobs"]

TOP = 20
"""Tokens listed at each position: vLLM's default limit (`--max-logprobs`)."""

_LONGEST_CHARACTER = 4
"""Bytes of a character, hence the most tokens: llama.cpp's server lists a token only once its character is complete."""

TopLogprobs = Mapping[str, float]
"""Token id as text → natural logarithm of its probability: the most likely tokens, perhaps also the actual one."""


class NotOffered(Exception):
    """The server does not support a request that is needed here; the message names it."""


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """The tokens generated at temperature 0, and the most likely tokens at each of their positions."""

    tokens: tuple[int, ...]
    top: tuple[TopLogprobs, ...]


class Probabilities(Protocol):
    """One served model. All methods raise NotOffered, and NoAnswer if the connection fails."""

    @property
    def method(self) -> str:
        """How continuations are scored, for display; known after the first call of `forced`."""
        ...

    def tokens(self, text: str) -> tuple[int, ...]: ...

    def greedy(self, prompt: Sequence[int], count: int) -> Continuation:
        """Up to `count` tokens; fewer if the model ends the text."""
        ...

    def forced(self, prompt: Sequence[int], tokens: Sequence[int], own: Continuation) -> tuple[TopLogprobs, ...]:
        """The most likely tokens at each position of `tokens`. `own` is this server's greedy continuation."""
        ...


class ServedProbabilities:
    """Client of a server that implements vLLM's or llama.cpp's variant of the completions protocol."""

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
        """The text is `prompt` for vLLM and `content` for llama.cpp; each ignores the other field."""
        body = {"model": self._model, "prompt": text, "content": text, "add_special": True}
        found = self._post(f"{self._root}/tokenize", body).get("tokens")
        if not isinstance(found, list) or not found or not all(isinstance(token, int) for token in found):
            raise NotOffered("the server does not report how it splits a text into tokens (/tokenize)")
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
        # Up to and including the first difference, the server's own continuation followed the same tokens.
        same = next((i for i, (a, b) in enumerate(zip(tokens, own.tokens, strict=False)) if a != b), len(own.tokens))
        found = list(own.top[: same + 1][: len(tokens)])
        found += [self._next([*prompt, *tokens[:position]]) for position in range(len(found), len(tokens))]
        return tuple(found)

    def _next(self, prompt: Sequence[int]) -> TopLogprobs:
        """The next token's log-probabilities; empty if the model would end the text here."""
        for count in (1, _LONGEST_CHARACTER):
            choice = self._complete(prompt, max_tokens=count, logprobs=TOP)
            if choice.get("logprobs") is not None:
                return _continuation(choice).top[0]
        return {}

    def _scored(self, prompt: Sequence[int], tokens: Sequence[int]) -> tuple[TopLogprobs, ...] | None:
        """All positions in one request; None if the server ignores `prompt_logprobs`."""
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
            text = f": {reply.body[:120]}" if reply.body else ""
            raise NotOffered(f"the server answers {name} with HTTP {reply.status}{text}")
        try:
            document = json.loads(reply.body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise NotOffered(f"the server's answer to {name} is not a JSON object")
        return document


def _continuation(choice: Mapping[str, Any]) -> Continuation:
    """Parse llama.cpp's list of entries with ids, or vLLM's columns, whose tokens are written `token_id:7`."""
    found = choice.get("logprobs")
    if found is None and choice.get("finish_reason") == "stop" and choice.get("text") == "":
        return Continuation(tokens=(), top=())  # llama.cpp, if the model ends the text at once
    try:
        if isinstance(found, dict) and isinstance(found.get("content"), list):
            rows = found["content"]
            tops = [{str(int(entry["id"])): float(entry["logprob"]) for entry in row["top_logprobs"]} for row in rows]
            return Continuation(tokens=tuple(int(row["id"]) for row in rows), top=tuple(tops))
        if isinstance(found, dict) and isinstance(found.get("top_logprobs"), list):
            columns = found["top_logprobs"]
            tops = [{str(_id(token)): float(value) for token, value in row.items()} for row in columns]
            return Continuation(tokens=tuple(map(_id, found["tokens"])), top=tuple(tops))
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise NotOffered("the server reports no log-probabilities by token id")


def _id(token: str) -> int:
    return int(token.removeprefix("token_id:"))
