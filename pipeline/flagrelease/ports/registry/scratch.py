"""A registry on a free port of this machine's loopback, for as long as a block lasts: for what is never published."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, urlsplit

from flagrelease.errors import UpstreamRefused
from flagrelease.ports.registry import PIECE
from flagrelease.ports.registry.layout import blob_path
from flagrelease.store.files import write_atomic

_BLOB = re.compile(r"/v2/(.+)/blobs/(sha256:[0-9a-f]{64})")
_UPLOAD = re.compile(r"/v2/(.+)/blobs/uploads/([0-9a-f]*)")
_MANIFEST = re.compile(r"/v2/(.+)/manifests/([\w][\w.:-]{0,127})")


@contextmanager
def serving(folder: Path, *, port: int = 0) -> Iterator[str]:
    """Serve the registry whose content is in `folder`; yields its HOST:PORT. `port` is used if it is free: an engine
    that knows the address does not send again what it sent before."""
    (folder / "uploads").mkdir(parents=True, exist_ok=True)
    handler = type("Handler", (_Handler,), {"folder": folder})
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        shutil.rmtree(folder / "uploads", ignore_errors=True)


class _Handler(BaseHTTPRequestHandler):
    """The push and pull part of the OCI distribution specification, without logins."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def _any(self) -> None:
        path = urlsplit(self.path).path
        if found := _BLOB.fullmatch(path):
            self._blob(found[2])
        elif found := _UPLOAD.fullmatch(path):
            self._upload(path, found[2])
        elif found := _MANIFEST.fullmatch(path):
            self._manifest(found[1], found[2])
        else:
            self._drain()
            self._answer(200 if path == "/v2/" else 404, b"{}")

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _any  # noqa: N815 - the names are http.server's

    def _blob(self, digest: str) -> None:
        self._drain()
        path = blob_path(self.folder, digest)
        if not path.is_file():
            self._answer(404, b'{"errors": [{"code": "BLOB_UNKNOWN"}]}')
            return
        self.send_response(200)
        self.send_header("Content-Length", str(path.stat().st_size))
        self.send_header("Docker-Content-Digest", digest)
        self.end_headers()
        if self.command == "GET":
            with path.open("rb") as stream:
                shutil.copyfileobj(stream, self.wfile, PIECE)

    def _upload(self, path: str, name: str) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        if self.command == "POST":
            self._drain()
            if (mount := asked.get("mount", [""])[0]) and blob_path(self.folder, mount).is_file():
                place = f"{path[: path.index('uploads/')]}{mount}"
                self._answer(201, **{"Docker-Content-Digest": mount, "Location": place})
                return
            name = uuid.uuid4().hex
            (self.folder / "uploads" / name).touch()
            headers = {"Location": f"{path}{name}", "Range": "0-0", "Docker-Upload-UUID": name}
            self._answer(202, **headers)
            return
        upload = self.folder / "uploads" / name
        if not name or not upload.is_file():
            self._drain()
            self._answer(404, b'{"errors": [{"code": "BLOB_UPLOAD_UNKNOWN"}]}')
            return
        with upload.open("ab") as stream:
            self._drain(stream)
        if self.command == "PUT":
            self._finish(upload, asked.get("digest", [""])[0])
        elif self.command == "DELETE":
            upload.unlink()
            self._answer(204)
        else:
            at = max(upload.stat().st_size - 1, 0)
            self._answer(202 if self.command == "PATCH" else 204, Location=path, Range=f"0-{at}")

    def _finish(self, upload: Path, digest: str) -> None:
        with upload.open("rb") as stream:
            found = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
        if found != digest:
            upload.unlink()
            self._answer(400, b'{"errors": [{"code": "DIGEST_INVALID"}]}')
            return
        target = blob_path(self.folder, digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        upload.replace(target)
        self._answer(201, **{"Docker-Content-Digest": digest, "Location": f"/v2/any/blobs/{digest}"})

    def _manifest(self, repository: str, reference: str) -> None:
        body = self._drain()
        if self.command == "PUT":
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            if ":" in reference and reference != digest:
                self._answer(400, b'{"errors": [{"code": "DIGEST_INVALID"}]}')
                return
            stored = json.dumps({"digest": digest, "type": self.headers.get("Content-Type", "")}).encode()
            write_atomic(blob_path(self.folder, digest), body)
            for name in {digest, reference}:
                write_atomic(self._name(repository, name), stored)
            self._answer(201, **{"Docker-Content-Digest": digest, "Location": self.path})
            return
        try:
            known = json.loads(self._name(repository, reference).read_bytes())
            content = blob_path(self.folder, str(known["digest"])).read_bytes()
        except (OSError, UpstreamRefused):
            self._answer(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}')
            return
        self._answer(200, content, **{"Docker-Content-Digest": known["digest"], "Content-Type": known["type"]})

    def _name(self, repository: str, reference: str) -> Path:
        """The file that says which manifest a repository has under a reference."""
        return self.folder / "names" / hashlib.sha256(f"{repository}@{reference}".encode()).hexdigest()

    def _drain(self, target: BinaryIO | None = None) -> bytes:
        """Read the request's body into `target`, or return it."""
        pieces = []
        for piece in self._pieces():
            if target is None:
                pieces.append(piece)
            else:
                target.write(piece)
        return b"".join(pieces)

    def _pieces(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            yield from self._exactly(int(self.headers.get("Content-Length") or 0))
            return
        while size := int(self.rfile.readline().partition(b";")[0].strip() or b"0", 16):
            yield from self._exactly(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self.rfile.read(min(size, PIECE))
            if not piece:
                return
            size -= len(piece)
            yield piece

    def _answer(self, status: int, body: bytes = b"", /, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """A line for each request would be noise."""
