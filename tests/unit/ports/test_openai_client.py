"""The client of a served model: whole texts, and the server's own words where it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from flagrelease.errors import SmokeFailed
from flagrelease.ports.openai_client import Client, Streamed
from support.endpoints import Said, serving
from support.streaming_endpoint import Pace, streaming

DEEP = b"[" * 100_000


def data(value: Any) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def says(text: Any, finish: str | None = None) -> bytes:
    return data({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})


def streamed(raw: bytes, status: int = 200) -> Streamed:
    with streaming(Pace(raw=raw, status=status)) as base_url, Client(base_url, seconds=10) as client:
        return client.stream("m", "?")


def refused(raw: bytes, status: int = 200) -> str:
    with pytest.raises(SmokeFailed, match="streaming") as caught:
        streamed(raw, status)
    return caught.value.why


def test_a_proxy_of_the_environment_is_not_asked_for_a_served_model(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert streamed(says("yes", "stop") + b"data: [DONE]").text == "yes"


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_a_text_with_a_separator_arrives_whole(separator: str) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    raw = says(f"one{separator}two") + says(" three", "stop") + data({"choices": [], "usage": usage})
    assert streamed(raw + b"data: [DONE]") == Streamed(
        text=f"one{separator}two three", chunks=3, finish_reason="stop", usage=usage, done=True
    )


def test_counts_that_are_not_numbers_are_left_out() -> None:
    raw = says("one") + data({"choices": [], "usage": {"prompt_tokens": None, "completion_tokens": True, "n": 3}})
    assert streamed(raw).usage == {"n": 3}


@pytest.mark.parametrize(
    ("raw", "status", "why"),
    [
        (says("one") + data({"error": {"message": "CUDA out\nof memory"}}), 200, "CUDA out of memory"),
        (says("one") + b'error: {"message": "CUDA out of memory"}\n\n', 200, "CUDA out of memory"),
        (b'{"error": {"message": "' + b"x" * 99 + b' CUDA out of memory", "code": 500}}', 500, "CUDA out of memory"),
        (b'{"error": {"message": "CUDA out of memory"}}', 200, "HTTP 200: CUDA out of memory"),
        (b"busy", 503, "HTTP 503: busy"),
    ],
)
def test_the_server_s_own_error_is_shown(raw: bytes, status: int, why: str) -> None:
    shown = refused(raw, status)
    assert why in shown
    assert "{" not in shown.removeprefix('the server reports an error: {"message"')


@pytest.mark.parametrize(
    "raw",
    [
        b"data: " + DEEP,
        b'data: {"choices": ' + DEEP,
        b"data: <html>\n\n",
        says(5),
        says("one") + data({"choices": [], "usage": "many"}),
        data({"choices": ["x"]}),
        data({"choices": [{"delta": None}]}),
    ],
)
def test_a_chunk_that_is_malformed_is_a_failed_check(raw: bytes) -> None:
    assert "violates the protocol" in refused(raw)


@pytest.mark.parametrize(
    ("raw", "status", "why"),
    [
        (b'{"error": {"message": "CUDA out of memory", "code": 500}}', 200, "reports an error: CUDA out of memory"),
        (b'{"error": {"message": "CUDA out of memory", "code": 500}}', 500, "HTTP 500: CUDA out of memory"),
        (b'{"choices": []}', 200, "missing: list index out of range: '{\"choices\": []}'"),
        (b'{"choices": ' + DEEP, 200, "not JSON"),
    ],
)
def test_an_answer_in_one_piece_is_judged_alike(raw: bytes, status: int, why: str) -> None:
    with (
        streaming(Pace(raw=raw, status=status)) as base_url,
        Client(base_url, seconds=10) as client,
        pytest.raises(SmokeFailed) as caught,
    ):
        client.chat("m", "?")
    assert why in caught.value.why


@pytest.mark.parametrize("ask", [Client.chat, Client.stream])
def test_a_body_that_is_compressed_wrongly_is_a_failed_check(ask: Callable[..., object]) -> None:
    said = Said(b"not gzip", headers={"Content-Encoding": "gzip"})
    with (
        serving(lambda _request, _n: said) as endpoint,
        Client(endpoint.base_url, seconds=10) as client,
        pytest.raises(SmokeFailed, match="invalid response"),
    ):
        ask(client, "m", "?")
