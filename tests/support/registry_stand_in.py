"""A registry in this process that speaks the protocol and misbehaves on demand. Its store is a dict."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

Trouble = Callable[[str, str], tuple[int, dict[str, str]] | None]
"""Given method and path: a status and headers to answer instead, or nothing. Status 0 drops the connection."""

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@dataclass
class Store:
    trouble: Trouble = lambda _method, _path: None
    login: tuple[str, str] | None = None
    bearer: bool = False
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    lie: str = ""
    types: dict[str, str] = field(default_factory=dict)
    """The Content-Type of a manifest by its digest, as it was stored; a test may change it."""
    calls: list[str] = field(default_factory=list)
    challenge: str = ""
    """The WWW-Authenticate header, instead of one that fits `bearer`."""
    elsewhere: str = ""
    """SCHEME://HOST that uploads are opened at, instead of here."""
    token: bytes = b'{"token": "granted"}'
    """The answer to a request for a token."""
    token_answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Statuses and headers of the next answers to a request for a token, before those that grant one."""
    granted: str = "granted"
    """The token that is accepted."""
    digests: bool = True
    """Whether answers have the header Docker-Content-Digest, which the specification makes optional."""
    authorizations: set[str] = field(default_factory=set)
    """The Authorization headers of all requests."""
    headers: list[dict[str, str]] = field(default_factory=list)
    """The headers of each request, in the order of `calls`."""
    mounts: bool = False
    """Whether a blob is taken over from another repository."""
    uploads: dict[str, bytes] = field(default_factory=dict)
    """What unfinished uploads have, by path."""
    token_status: int = 200
    """The status of the answer to a request for a token."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.store.calls.append(f"{self.command} {self.path}")
        self.store.headers.append(dict(self.headers.items()))
        self.store.authorizations.update(self.headers.get_all("Authorization") or ())
        if self.path.startswith("/token"):
            if self.store.token_answers:
                status, headers = self.store.token_answers.pop(0)
                self._answer(status, **headers)
                return
            self._answer(self.store.token_status if self._logged_in() else 401, self.store.token)
            return
        if (trouble := self.store.trouble(self.command, self.path)) is not None:
            if trouble[0] == 0:
                self.close_connection = True
                self.connection.close()
                return
            self._answer(trouble[0], b'{"errors":[{"code":"TROUBLE","message":"as asked"}]}', **trouble[1])
            return
        if self.store.login and not self._allowed():
            realm = f'Bearer realm="http://{self.headers["Host"]}/token",service="s",scope="repository:x:pull,push"'
            basic_or_bearer = realm if self.store.bearer else 'Basic realm="r"'
            self._answer(401, **{"WWW-Authenticate": self.store.challenge or basic_or_bearer})
            return
        self._serve(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _any  # noqa: N815 - the names are http.server's

    def _logged_in(self) -> bool:
        if self.store.login is None:
            return True
        told = base64.b64encode(":".join(self.store.login).encode()).decode()
        return self.headers.get("Authorization") == f"Basic {told}"

    def _allowed(self) -> bool:
        return (
            self.headers.get("Authorization") == f"Bearer {self.store.granted}"
            if self.store.bearer
            else self._logged_in()
        )

    def _serve(self, body: bytes) -> None:
        name = self.path.partition("?")[0].rpartition("/")[2]
        if "/blobs/uploads/" in self.path:
            upload, _, query = self.path.partition("?")
            if self.command == "POST" and "mount=" in query:
                digest = parse_qs(query)["mount"][0]
                self._answer(201 if self.store.mounts and digest in self.store.blobs else 202, Location=f"{upload}one")
            elif self.command == "POST":
                self._answer(202, Location=f"{self.store.elsewhere}{self.path}one")
            elif self.command == "PATCH":
                self.store.uploads[upload] = self.store.uploads.get(upload, b"") + body
                self._answer(202, Location=upload)
            elif self.command == "PUT":
                whole = self.store.uploads.pop(upload, b"") + body
                digest = self.path.rpartition("digest=")[2]
                if digest != "sha256:" + hashlib.sha256(whole).hexdigest():
                    self._answer(400, b'{"errors":[{"code":"DIGEST_INVALID","message":"not its digest"}]}')
                    return
                self.store.blobs[digest] = whole
                self._answer(201)
            else:
                self._answer(204)
        elif "/manifests/" in self.path and self.command == "PUT":
            digest = "sha256:" + hashlib.sha256(body).hexdigest()
            self.store.manifests |= {name: body, digest: body}
            self.store.types[digest] = self.headers.get("Content-Type", "")
            confirmed = {"Docker-Content-Digest": self.store.lie or digest} if self.store.digests else {}
            self._answer(201, **confirmed)
        else:
            kept = self.store.manifests if "/manifests/" in self.path else self.store.blobs
            if name not in kept:
                self._answer(200 if self.path == "/v2/" else 404)
                return
            found = "sha256:" + hashlib.sha256(kept[name]).hexdigest()
            headers = {
                "Docker-Content-Digest": (self.store.lie or found) if self.store.digests else "",
                "Content-Type": self.store.types.get(found, _MANIFEST),
            }
            self._answer(200, kept[name], **{name: value for name, value in headers.items() if value})

    def _answer(self, status: int, body: bytes = b"", /, **headers: str) -> None:
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def standing_in(store: Store) -> Iterator[str]:
    """Run it on a free port of loopback; its HOST:PORT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": store}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
