"""The real Docker Engine behind a socket that stops answering at a named call."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingMixIn, UnixStreamServer

ENGINE = "/var/run/docker.sock"


class HangingEngine(ThreadingMixIn, UnixStreamServer):
    """Passes everything on to the engine, until a request matches `call`.

    That one is never answered; with `frozen`, nothing is from then on. With `after`, so many bytes of its answer are
    let through before.
    """

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.call: re.Pattern[bytes] | None = None
        self.freezes = False
        self.after = 0
        self.frozen, self.met = threading.Event(), threading.Event()
        super().__init__(str(path), _Connection)

    @property
    def url(self) -> str:
        return f"unix://{self.server_address!s}"

    def hang(self, call: str, *, freeze: bool = False, after: int = 0) -> None:
        """Hang at the requests that begin with what matches `call`, such as `POST .*/build`."""
        self.call, self.freezes, self.after = re.compile(call.encode()), freeze, after

    def hangs_at(self, data: bytes) -> bool:
        return self.call is not None and self.call.match(data.partition(b" HTTP/")[0]) is not None


class _Connection(BaseRequestHandler):
    server: HangingEngine

    def handle(self) -> None:
        self._left: int | None = None
        """Bytes of the answer that still pass; None for all."""
        with suppress(OSError), socket.socket(socket.AF_UNIX) as engine:
            engine.connect(ENGINE)
            threading.Thread(target=self._answers, args=(engine,), daemon=True).start()
            while data := self.request.recv(65536):
                if self.server.frozen.is_set():
                    continue
                if self.server.hangs_at(data):
                    self._left = self.server.after
                    self.server.met.set()
                    if self.server.freezes and not self.server.after:
                        self.server.frozen.set()
                    if not self.server.after:
                        continue
                if self._left != 0:
                    engine.sendall(data)
            engine.shutdown(socket.SHUT_WR)

    def _answers(self, engine: socket.socket) -> None:
        with suppress(OSError):
            while data := engine.recv(65536):
                if self._left is not None:
                    data, self._left = data[: self._left], max(0, self._left - len(data))
                    if not self._left and self.server.freezes:
                        self.server.frozen.set()
                if data and not (self.server.frozen.is_set() and self._left != 0):
                    self.request.sendall(data)
            self.request.shutdown(socket.SHUT_WR)


@contextmanager
def hanging_engine(folder: Path) -> Iterator[HangingEngine]:
    with HangingEngine(folder / "s") as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()
