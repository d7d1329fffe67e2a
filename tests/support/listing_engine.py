"""A socket that answers `GET /images/NAME/json` as Docker Engine does, for any set of images."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote


@contextmanager
def listing(folder: Path, *images: str) -> Iterator[str]:
    """The DOCKER_HOST of an engine that has `images`; its socket is in `folder`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = unquote(self.path) in {f"/images/{image}/json" for image in images}
            body = b"{}" if known else b'{"message": "No such image"}'
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

        def address_string(self) -> str:
            return "socket"

    path = folder / "docker.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"unix://{path}"
        finally:
            server.shutdown()
            thread.join()
            path.unlink()
