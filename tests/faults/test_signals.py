"""SIGINT, SIGTERM and SIGHUP before, during and after the work, also while Docker Engine does not answer."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import socket
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingMixIn, UnixStreamServer

import pytest

from support.project import CELL, UserProject, project

pytestmark = [pytest.mark.faults, pytest.mark.integration]

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
ENGINE = "/var/run/docker.sock"


class Freezing(ThreadingMixIn, UnixStreamServer):
    """Passes everything on to the real engine, until it is frozen."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.asked, self.frozen = threading.Event(), threading.Event()
        super().__init__(str(path), Connection)

    @property
    def url(self) -> str:
        return f"unix://{self.server_address!s}"


class Connection(BaseRequestHandler):
    server: Freezing

    def handle(self) -> None:
        self.server.asked.set()
        with suppress(OSError), socket.socket(socket.AF_UNIX) as engine:
            if not self.server.frozen.is_set():
                engine.connect(ENGINE)
                threading.Thread(target=self._pass_on, args=(engine, self.request), daemon=True).start()
            self._pass_on(self.request, engine)

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not self.server.frozen.is_set():
                    sink.sendall(data)
            if not self.server.frozen.is_set():
                sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def freezing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Freezing]:
    with Freezing(tmp_path_factory.mktemp("engine") / "s") as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("number", SIGNALS)
def test_before_the_first_stage(tmp_path: Path, freezing: Freezing, number: signal.Signals) -> None:
    freezing.frozen.set()
    with project(tmp_path).start("run", CELL, DOCKER_HOST=freezing.url) as process:
        assert freezing.asked.wait(60)
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=10)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (
        130,
        "",
        "flagrelease: interrupted\n  → run again: finished stages are kept\n",
    )


def in_the_image_stage(user: UserProject, freezing: Freezing) -> subprocess.Popen[str]:
    """A run that waits for the engine, which does not answer any more."""
    own = {"DOCKER_HOST": freezing.url, "FLAGRELEASE_LOCKS": str(user.root / "locks")}
    process = user.start("run", CELL, "--only", "weights", "--only", "image", **own)
    assert process.stderr is not None
    for line in process.stderr:
        if f"{CELL}  image " in line:
            freezing.frozen.set()
            freezing.asked.clear()
            time.sleep(1)
            return process
    pytest.fail(f"the image stage never began: {process.communicate()}")


@pytest.mark.timeout(300)
def test_a_second_signal_leaves_at_once(tmp_path: Path, base: str, own_registry: str, freezing: Freezing) -> None:
    with in_the_image_stage(project(tmp_path, f"{own_registry}/second"), freezing) as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)  # the same request
        time.sleep(1.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "stopped without cleaning up\n  → run again" in err


@pytest.mark.timeout(300)
def test_an_engine_that_does_not_answer_holds_no_stopped_run(
    tmp_path: Path, base: str, own_registry: str, freezing: Freezing
) -> None:
    with in_the_image_stage(project(tmp_path, f"{own_registry}/first"), freezing) as process:
        began = time.monotonic()
        process.send_signal(signal.SIGHUP)
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert "cleaning up takes more than 2 s: the next run removes what is left" in err
    assert time.monotonic() - began < 20, "it takes 9 s on a quiet machine"
    assert len(list((tmp_path / "locks").glob("run-*"))) == 1, "it is in the list of runs that left something"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_containers_are_taken_away(tmp_path: Path, base: str, own_registry: str) -> None:
    user = project(tmp_path, f"{own_registry}/taken")
    for number in (signal.SIGHUP, signal.SIGTERM):
        with user.start("run", CELL) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if f"{CELL}  smoke " in line:
                    break
            while all("/" in left for left in user.leftovers()) and process.poll() is None:  # a file, no container
                time.sleep(0.1)
            process.send_signal(number)
            _, err = process.communicate(timeout=120)
        assert process.returncode == 130, err
        assert user.leftovers() == [], number


def control(descriptor: int) -> None:
    os.setsid()
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


@pytest.mark.timeout(300)
def test_a_terminal_that_is_closed(tmp_path: Path, base: str, own_registry: str) -> None:
    user = project(tmp_path, f"{own_registry}/closed")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [str(user.program), "run", CELL],
        cwd=tmp_path,
        env={**os.environ, "FLAGRELEASE_ENGINE": "inline", "FLAGRELEASE_REGISTRY": user.registry, "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lambda: control(theirs),
    )
    os.close(theirs)
    shown = b""
    while b"image" not in shown or b"running" not in shown:
        shown = (shown + os.read(ours, 65536))[-65536:]
    os.close(ours)
    assert process.wait(timeout=60) == 130
    assert user.leftovers() == []
    assert list(Path(os.environ["FLAGRELEASE_LOCKS"]).glob("run-*")) == []
