"""Client of a served model's OpenAI-compatible API. Loopback only, so it never uses a proxy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flagrelease.errors import SmokeFailed, error_words
from flagrelease.ports.event_stream import DONE, EventStream, ReportedError, event
from flagrelease.ports.http import refusal

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

    def __init__(self, base_url: str, *, seconds: float = 120.0, key: str = "") -> None:
        import httpx

        limits = httpx.Limits(max_connections=64, max_keepalive_connections=0)
        self._http: httpx.Client = httpx.Client(
            base_url=base_url, timeout=httpx.Timeout(seconds, connect=5.0), trust_env=False, limits=limits
        )
        if key:
            self._http.headers["Authorization"] = f"Bearer {key}"

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
            raise _incomplete("/v1/models", document, reply, error) from None

    def chat(self, model: str, prompt: str, **parameters: Any) -> Answer:
        reply = self.post("/chat/completions", _chat(model, prompt, parameters))
        document = _document(reply, "/v1/chat/completions")
        try:
            choice = document["choices"][0]
            content = choice["message"]["content"]
            if not isinstance(content, str):
                raise TypeError("content of type text")
            return Answer(
                text=content,
                finish_reason=str(choice["finish_reason"]),
                model=str(document["model"]),
                usage=_counts(document["usage"]),
            )
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise _incomplete("/v1/chat/completions", document, reply, error) from None

    def stream(self, model: str, prompt: str, **parameters: Any) -> Streamed:
        return self.streamed(
            _chat(model, prompt, parameters) | {"stream": True, "stream_options": {"include_usage": True}}
        )

    def streamed(self, body: Mapping[str, Any]) -> Streamed:
        """Send this body, which asks for a stream."""
        import httpx

        text, finish_reason, chunks, done = "", "", 0, False
        usage: dict[str, int] = {}
        try:
            for data in self._events("/chat/completions", body):
                if data == DONE:
                    done = True
                    continue
                chunk = event(data)
                chunks += 1
                usage = _counts(chunk.get("usage") or {}) or usage
                for choice in chunk["choices"]:
                    text += choice["delta"].get("content") or ""
                    finish_reason = str(choice.get("finish_reason") or finish_reason)
        except httpx.TransportError as error:
            raise NoAnswer(f"{type(error).__name__}: {error}") from error
        except ReportedError as error:
            raise _invalid("streaming", str(error)) from None
        except (ValueError, KeyError, TypeError, AttributeError, httpx.DecodingError) as error:
            raise _invalid("streaming", f"a chunk violates the protocol: {type(error).__name__}: {error}") from None
        return Streamed(text=text, chunks=chunks, finish_reason=finish_reason, usage=usage, done=done)

    def _events(self, path: str, body: Mapping[str, Any]) -> Iterator[str]:
        events = EventStream()
        with self._http.stream("POST", path, json=body) as answer:
            if answer.status_code != 200:
                raise _invalid("streaming", refusal(answer.status_code, answer.read()))
            for block in answer.iter_bytes():
                yield from events.feed(block)
            yield from events.end()
        if events.document:
            raise _invalid("streaming", refusal(answer.status_code, events.document))

    def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        """Send any POST request; the response may have any status."""
        return self._request("POST", path, body)

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Reply:
        import httpx

        try:
            answer = self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise NoAnswer(f"{type(error).__name__}: {error}") from error
        except httpx.DecodingError as error:
            raise _invalid(f"/v1{path}", str(error)) from None
        return Reply(status=answer.status_code, body=answer.text)


def _chat(model: str, prompt: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **parameters}


def _counts(usage: Mapping[str, Any]) -> dict[str, int]:
    return {name: value for name, value in usage.items() if type(value) is int}


def _document(reply: Reply, where: str) -> Any:
    if reply.status != 200:
        raise _invalid(where, refusal(reply.status, reply.body.encode(errors="replace")))
    try:
        return json.loads(reply.body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _invalid(where, f"not JSON: {error}: {reply.body[:160]!r}") from None


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _incomplete(where: str, document: Any, reply: Reply, error: Exception) -> SmokeFailed:
    """The error for a response without its required parts: what the server reports in it, else what is missing."""
    words = error_words(document) if isinstance(document, dict) else ""
    if words:
        return _invalid(where, f"the server reports an error: {words}")
    return _invalid(where, f"missing: {error}: {reply.body[:160]!r}")


def _invalid(where: str, why: str) -> SmokeFailed:
    return SmokeFailed(f"the endpoint answered {where} with an invalid response", why=why)
