"""The connection to an endpoint: HTTP responses are returned, anything else is a TransportError with its cause."""

from __future__ import annotations

import asyncio

import pytest

from flagrelease.errors import ConfigError
from flagrelease.evaluation.harnesses.own_http import JsonConnection, Response, TransportError


def post(*answers: bytes, times: int = 1, seconds: float = 2.0, hang: bool = False) -> list[Response]:
    """Post `times` times to a server that sends these bytes, one after each request, and then closes."""

    async def everything() -> list[Response]:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for answer in answers:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]))
                writer.write(answer)
                await writer.drain()
            if hang:
                await reader.read()
            writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            async with JsonConnection(f"http://127.0.0.1:{port}/v1/x", key="secret") as connection:
                return [await connection.post(b"{}", seconds=seconds) for _ in range(times)]
        finally:
            server.close()

    return asyncio.run(everything())


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Name:  a \r\n\r\n{}"


def test_a_body_with_its_length() -> None:
    (response,) = post(OK)
    assert response == Response(200, {"content-length": "2", "x-name": "a"}, b"{}")


def test_one_connection_serves_many_requests() -> None:
    assert [one.status for one in post(OK, OK.replace(b"200", b"503"), OK, times=3)] == [200, 503, 200]


def test_a_connection_closed_while_idle_is_opened_again() -> None:
    assert len(post(OK, times=3)) == 3


def test_a_body_until_the_end_of_the_connection() -> None:
    responses = post(b"HTTP/1.0 200 OK\r\n\r\nall of it", times=2)
    assert [one.body for one in responses] == [b"all of it"] * 2


def test_chunks_with_extensions_and_trailers() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nSum: 1\r\n\r\n"
    assert [one.body for one in post(chunked, OK, times=2)] == [b"abcde", b"{}"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not an HTTP response"),
        (b"HTTP/1.1 abc\r\n\r\n", "not an HTTP response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "unsupported Content-Length -1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "unsupported Content-Length 99999999999"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "closed after 4 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "invalid chunk size"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "closed after 2 bytes"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, "header is too long"),
        (b"", "closed after 0 bytes"),
    ],
)
def test_an_invalid_response(answer: bytes, said: str) -> None:
    with pytest.raises(TransportError, match=said):
        post(answer)


def test_a_response_that_never_comes() -> None:
    with pytest.raises(TransportError, match="no response within 0 s"):
        post(b"", seconds=0.2, hang=True)


@pytest.mark.parametrize("url", ["ftp://host/x", "127.0.0.1:80", "http://"])
def test_an_invalid_url(url: str) -> None:
    with pytest.raises(ConfigError, match="is not an http:// or https:// URL"):
        JsonConnection(url)


def test_nobody_listens() -> None:
    async def ask() -> None:
        async with JsonConnection("http://127.0.0.1:1/v1") as connection:
            await connection.post(b"{}", seconds=2.0)

    with pytest.raises(TransportError, match="refused"):
        asyncio.run(ask())
