"""Ask this machine's Docker Engine quickly whether it has an image, without docker-py, which is slow to import."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from urllib.parse import quote

from flagrelease.errors import DockerUnavailable

_SECONDS = 1.0
"""For the first answer. An engine that does not give it is not asked again."""


class LocalImages:
    """The images of this machine's engine, as far as it answers at once. Engines behind a network are not asked."""

    def __init__(self) -> None:
        self._known: dict[str, bool | None] = {}

    def has(self, reference: str) -> bool | None:
        """Whether the engine has the image; None if it did not answer."""
        if None in self._known.values():
            return None
        if reference not in self._known:
            self._known[reference] = _asked(reference)
        return self._known[reference]


def _asked(reference: str) -> bool | None:
    path = _socket()
    if path is None:
        return None
    end = time.monotonic() + _SECONDS
    request = f"GET /images/{quote(reference)}/json HTTP/1.0\r\nHost: docker\r\n\r\n"
    line = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as engine:
            engine.settimeout(_SECONDS)
            engine.connect(path)
            engine.sendall(request.encode())
            while b"\n" not in line and len(line) < 1000:
                engine.settimeout(max(0.001, end - time.monotonic()))
                if not (more := engine.recv(100)):
                    return None
                line += more
    except OSError:
        return None
    return {b"200": True, b"404": False}.get(line[9:12])


def _socket() -> str | None:
    """The engine's socket; None for an engine that is reached otherwise."""
    url = os.environ.get("DOCKER_HOST", "")
    if not url:
        with suppress(DockerUnavailable):
            from flagrelease.ports.docker.endpoint import endpoint

            url = endpoint().url
    return url.removeprefix("unix://") if url.startswith("unix://") else None
