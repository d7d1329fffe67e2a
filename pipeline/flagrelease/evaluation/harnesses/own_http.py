"""Post JSON over a keep-alive HTTP/1.1 connection.

The evaluation has to keep 64 requests in flight against a server that answers in 50 ms. A general HTTP client spends
most of a core on that (measured by benchmarks/harness_saturation.py); this one supports only what a chat endpoint
needs: Content-Length and chunked bodies, keep-alive, TLS by the standard library.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

from flagrelease.errors import ConfigError

__all__ = ["JsonConnection", "Response", "TransportError"]

_MAX_HEAD = 64 * 1024
_MAX_BODY = 64 * 1024 * 1024


class TransportError(Exception):
    """No complete HTTP response: the connection was refused, reset or closed early, or timed out."""


@dataclass(frozen=True)
class Response:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    """By lower-case name; a repeated header has its last value."""
    body: bytes


class JsonConnection:
    """A connection that posts to one URL, one request at a time, connecting and reconnecting as needed."""

    def __init__(self, url: str, *, key: str = "", connect_seconds: float = 10.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{url!r} is not an http:// or https:// URL")
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._connect_seconds = connect_seconds
        head = [f"POST {parts.path or '/'} HTTP/1.1", f"Host: {parts.netloc.rpartition('@')[2]}"]
        head += ["Content-Type: application/json", "Accept: application/json"]
        head += [f"Authorization: Bearer {key}"] if key else []
        self._head = "\r\n".join(head).encode() + b"\r\nContent-Length: "
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> JsonConnection:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def post(self, body: bytes, *, seconds: float) -> Response:
        """Send `body` and return the response, whatever its status. Raises TransportError, also after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(body)
        except TimeoutError:
            self.close()
            raise TransportError(f"no response within {seconds:.0f} s") from None
        except asyncio.LimitOverrunError:
            self.close()
            raise TransportError("the response header is too long") from None
        except asyncio.IncompleteReadError as error:
            self.close()
            raise TransportError(f"the connection closed after {len(error.partial)} bytes") from None
        except OSError as error:
            self.close()
            why = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
            raise TransportError(why) from None
        except BaseException:
            # The response to a cancelled request may still arrive; the next request must not read it.
            self.close()
            raise

    async def _exchange(self, body: bytes) -> Response:
        message = self._head + str(len(body)).encode() + b"\r\n\r\n" + body
        reused = self._writer is not None
        reader = await self._send(message)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            # The peer closed an idle connection before it sent any response, so send the request again.
            if not reused or (isinstance(error, asyncio.IncompleteReadError) and error.partial):
                raise
            self.close()
            reader = await self._send(message)
            head = await reader.readuntil(b"\r\n\r\n")
        status, headers = _parse_head(head)
        content, reusable = await _body(reader, headers)
        if not reusable or headers.get("connection", "").lower() == "close":
            self.close()
        return Response(status, headers, content)

    async def _send(self, message: bytes) -> asyncio.StreamReader:
        if self._reader is None or self._writer is None or self._writer.is_closing():
            async with asyncio.timeout(self._connect_seconds):
                self._reader, self._writer = await asyncio.open_connection(
                    self._host, self._port, ssl=self._tls, limit=_MAX_HEAD
                )
        with suppress(ConnectionError):  # reading reports the failure
            self._writer.write(message)
            await self._writer.drain()
        return self._reader


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    version, _, rest = first.partition(" ")
    status = rest[:3]
    if not version.startswith("HTTP/1.") or not status.isdigit():
        raise OSError(f"not an HTTP response: {first[:80]!r}")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(status), headers


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> tuple[bytes, bool]:
    """The body, and whether the connection can be reused."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return await _chunks(reader), True
    length = headers.get("content-length")
    if length is None:
        return await reader.read(_MAX_BODY), False
    if not length.isdigit() or int(length) > _MAX_BODY:
        raise OSError(f"unsupported Content-Length {length[:20]}")
    return await reader.readexactly(int(length)), True


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    total = 0
    while True:
        line = await reader.readuntil(b"\r\n")
        try:
            size = int(line.split(b";")[0], 16)
        except ValueError:
            raise OSError(f"invalid chunk size: {line[:20]!r}") from None
        total += size
        if total > _MAX_BODY:
            raise OSError(f"the body exceeds {_MAX_BODY} bytes")
        if size == 0:
            while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers
                pass
            return b"".join(parts)
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
