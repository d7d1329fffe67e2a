"""Client of a served model's OpenAI-compatible API. Loopback only, so it never uses a proxy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flagrelease.errors import SmokeFailed

if TYPE_CHECKING:
    import httpx


class NoAnswer(Exception):
    """The connection failed: the server may not be up yet, or no longer."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A finished completion."""

    text: str
    finish_reason: str
    model: str
    usage: Mapping[str, int]
    """As received, because its sums are checked."""


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """A streamed completion, joined."""

    text: str
    chunks: int
    """The number of chunks received."""
    finish_reason: str
    usage: Mapping[str, int]
    """Of the last chunk that has it."""
    done: bool
    """Whether `[DONE]` was received."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An HTTP response of any status."""

    status: int
    body: str


class Client:
    """Client of one server. `base_url` ends with `/v1`.

    Raises NoAnswer if the connection fails, SmokeFailed if the response violates the protocol.
    """

    def __init__(self, base_url: str, *, seconds: float = 120.0) -> None:
        import httpx

        limits = httpx.Limits(max_connections=64, max_keepalive_connections=0)
        self._http: httpx.Client = httpx.Client(
            base_url=base_url, timeout=httpx.Timeout(seconds, connect=5.0), trust_env=False, limits=limits
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def models(self) -> tuple[str, ...]:
        """The names of the served models."""
        reply = self._request("GET", "/models")
        document = _document(reply, "/v1/models")
        try:
            return tuple(str(entry["id"]) for entry in document["data"])
        except (KeyError, TypeError) as error:
            raise _invalid("/v1/models", reply.body, f"missing: {error}") from None

    def chat(self, model: str, prompt: str, **parameters: Any) -> Answer:
        reply = self.post("/chat/completions", _chat(model, prompt, parameters))
        document = _document(reply, "/v1/chat/completions")
        try:
            choice = document["choices"][0]
            content = choice["message"]["content"]
            if not isinstance(content, str):
                raise TypeError("content of type text")
            usage = {name: value for name, value in document["usage"].items() if isinstance(value, int)}
            return Answer(
                text=content, finish_reason=str(choice["finish_reason"]), model=str(document["model"]), usage=usage
            )
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise _invalid("/v1/chat/completions", reply.body, f"missing: {error}") from None

    def stream(self, model: str, prompt: str, **parameters: Any) -> Streamed:
        import httpx

        body = _chat(model, prompt, parameters) | {"stream": True, "stream_options": {"include_usage": True}}
        text, finish_reason, chunks, done = "", "", 0, False
        usage: dict[str, int] = {}
        try:
            with self._http.stream("POST", "/chat/completions", json=body) as answer:
                if answer.status_code != 200:
                    raise _invalid("streaming", answer.read().decode(errors="replace"), f"HTTP {answer.status_code}")
                for line in answer.iter_lines():
                    data = line.removeprefix("data:").strip()
                    if not line.startswith("data:") or data == "[DONE]":
                        done = done or data == "[DONE]"
                        continue
                    chunk = json.loads(data)
                    chunks += 1
                    usage = chunk.get("usage") or usage
                    for choice in chunk["choices"]:
                        text += choice["delta"].get("content") or ""
                        finish_reason = choice.get("finish_reason") or finish_reason
        except httpx.TransportError as error:
            raise NoAnswer(f"{type(error).__name__}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _invalid("streaming", str(error), "a chunk violates the protocol") from None
        return Streamed(text=text, chunks=chunks, finish_reason=finish_reason, usage=usage, done=done)

    def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        """Send any POST request; the response may have any status."""
        return self._request("POST", path, body)

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Reply:
        import httpx

        try:
            answer = self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise NoAnswer(f"{type(error).__name__}: {error}") from error
        return Reply(status=answer.status_code, body=answer.text)


def _chat(model: str, prompt: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **parameters}


def _document(reply: Reply, where: str) -> Any:
    if reply.status != 200:
        raise _invalid(where, reply.body, f"HTTP {reply.status}")
    try:
        return json.loads(reply.body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _invalid(where, reply.body, f"not JSON: {error}") from None


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _invalid(where: str, body: str, why: str) -> SmokeFailed:
    return SmokeFailed(f"the endpoint answered {where} with an invalid response", why=f"{why}: {body[:160]!r}")
