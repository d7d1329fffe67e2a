"""Get a model's log-probabilities of given tokens from its completions endpoint.

Prompts are sent as token ids. vLLM scores a complete continuation in one request while it reads it (`prompt_logprobs`),
and its own generation shows how it computes while it decodes. llama.cpp's server scores only the tokens it generates;
a grammar of token ids makes it generate given ones, and the reported log-probabilities are those before the grammar.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flagrelease.ports.openai_client import Client
from flagrelease.verdict.stats.token_distance import TopLogprobs

__all__ = ["TOP", "Continuation", "NotOffered", "Probabilities", "Scored", "ServedProbabilities", "TopLogprobs"]

TOP = 20
"""Tokens listed at each position: vLLM's default limit (`--max-logprobs`)."""


class NotOffered(Exception):
    """The server does not support a request that is needed here; the message names it."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A server's log-probabilities at the positions of a continuation."""

    decoded: tuple[TopLogprobs, ...]
    """Computed token by token, at the first positions: all of them, or those before its own choice differed."""
    read: tuple[TopLogprobs, ...] = ()
    """Computed in one pass over the text, at all positions; empty if the server cannot."""


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """The tokens that a server generated at temperature 0, and its log-probabilities there."""

    tokens: tuple[int, ...]
    scored: Scored


class Probabilities(Protocol):
    """One served model. All methods raise NotOffered, and NoAnswer if the connection fails."""

    def prompt(self, messages: Sequence[Mapping[str, str]], template: Mapping[str, Any]) -> tuple[int, ...]:
        """The tokens of a chat, up to where the model answers; `template` are arguments of its chat template."""
        ...

    def greedy(self, prompt: Sequence[int], count: int) -> Continuation:
        """`count` tokens, beyond the end of the answer if it is shorter; fewer if the server cannot report them."""
        ...

    def forced(self, prompt: Sequence[int], tokens: Sequence[int]) -> Scored:
        """The log-probabilities at each position of `tokens`."""
        ...


class ServedProbabilities:
    """Client of a server that implements vLLM's or llama.cpp's variant of the protocol."""

    def __init__(self, base_url: str, model: str, *, seconds: float = 120.0) -> None:
        self._client = Client(base_url, seconds=seconds)
        self._root = base_url.removesuffix("/v1")
        self._model = model
        self._reads: bool | None = None

    def __enter__(self) -> ServedProbabilities:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.__exit__()

    def prompt(self, messages: Sequence[Mapping[str, str]], template: Mapping[str, Any]) -> tuple[int, ...]:
        chat = {"messages": list(messages), "add_generation_prompt": True}
        if template:
            chat["chat_template_kwargs"] = dict(template)
        if self._reads is not False:
            tokens = self._post(f"{self._root}/tokenize", {"model": self._model, **chat}).get("tokens")
            self._reads = bool(tokens)  # llama.cpp's server ignores `messages`, and splits an empty text
        if not self._reads:
            text = self._post(f"{self._root}/apply-template", chat).get("prompt")
            body = {"content": text, "add_special": True, "parse_special": True}
            tokens = self._post(f"{self._root}/tokenize", body).get("tokens")
        if not isinstance(tokens, list) or not tokens or not all(isinstance(token, int) for token in tokens):
            raise NotOffered("the server does not report how it splits a chat into tokens (/tokenize)")
        return tuple(tokens)

    def greedy(self, prompt: Sequence[int], count: int) -> Continuation:
        if self._reads:
            tokens, decoded = self._decoded(prompt, count)
            return Continuation(tokens=tokens, scored=Scored(decoded=decoded, read=self._read(prompt, tokens)))
        document = self._generate(prompt, count, return_tokens=True)
        listed, tops = _listed(document)
        generated = document.get("tokens")
        if not isinstance(generated, list):
            raise NotOffered("the server does not report the tokens that it generates")
        # A token that is a part of a character is not listed, and a grammar does not admit it: end before it.
        whole = _common(generated, listed)
        return Continuation(tokens=listed[:whole], scored=Scored(decoded=tops[:whole]))

    def forced(self, prompt: Sequence[int], tokens: Sequence[int]) -> Scored:
        if self._reads:
            own, decoded = self._decoded(prompt, len(tokens))
            # Up to and including the first difference, the server's own continuation followed the same tokens.
            return Scored(decoded=decoded[: _common(tokens, own) + 1], read=self._read(prompt, tokens))
        grammar = "root ::= " + " ".join(f"<[{token}]>" for token in tokens)
        listed, tops = _listed(self._generate(prompt, len(tokens), grammar=grammar))
        if listed != tuple(tokens):
            raise NotOffered("the server does not generate the tokens that a grammar names")
        return Scored(decoded=tops)

    def _generate(self, prompt: Sequence[int], count: int, **more: Any) -> Mapping[str, Any]:
        """llama.cpp's own completions."""
        # The answer to one request must not depend on the requests before it: hence without the prompt cache.
        body = {"prompt": list(prompt), "n_predict": count, "temperature": 0, "ignore_eos": True, "n_probs": TOP}
        return self._post(f"{self._root}/completion", {**body, "cache_prompt": False, **more})

    def _decoded(self, prompt: Sequence[int], count: int) -> tuple[tuple[int, ...], tuple[TopLogprobs, ...]]:
        columns = self._complete(prompt, max_tokens=count, ignore_eos=True, logprobs=TOP).get("logprobs")
        try:
            rows: Any = columns and columns["top_logprobs"]
            tops = [_likeliest({str(_id(token)): float(value) for token, value in row.items()}) for row in rows]
            return tuple(map(_id, columns["tokens"])), tuple(tops)  # type: ignore[index]  # a TypeError is caught
        except (AttributeError, KeyError, TypeError, ValueError):
            raise NotOffered("the server reports no log-probabilities by token id") from None

    def _read(self, prompt: Sequence[int], tokens: Sequence[int]) -> tuple[TopLogprobs, ...]:
        rows = self._complete([*prompt, *tokens], max_tokens=1, prompt_logprobs=TOP).get("prompt_logprobs")
        try:
            if len(rows) != len(prompt) + len(tokens):  # type: ignore[arg-type]  # a TypeError is caught
                raise ValueError
            found = rows[len(prompt) :]  # type: ignore[index]
            return tuple(_likeliest({token: float(entry["logprob"]) for token, entry in row.items()}) for row in found)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise NotOffered("the server does not score the tokens of a prompt (prompt_logprobs)") from None

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


def _listed(document: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[TopLogprobs, ...]]:
    """The tokens that llama.cpp's server lists, and the most likely ones at each."""
    try:
        rows = document["completion_probabilities"]
        tops = [{str(int(entry["id"])): float(entry["logprob"]) for entry in row["top_logprobs"]} for row in rows]
        return tuple(int(row["id"]) for row in rows), tuple(tops)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise NotOffered("the server reports no log-probabilities by token id") from None


def _likeliest(row: TopLogprobs) -> TopLogprobs:
    """Without the actual token where it is not one of the most likely, which vLLM lists in addition."""
    return {str(token): row[token] for token in sorted(row, key=lambda token: -row[token])[:TOP]}


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """The number of equal tokens at the start."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _id(token: str) -> int:
    return int(token.removeprefix("token_id:"))
