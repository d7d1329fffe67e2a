"""An embedded Prefect server, used if `PREFECT_API_URL` is not set."""

from __future__ import annotations

import os
import socket
import sqlite3
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from flagrelease.errors import Busy, EnvironmentFault, FlagreleaseError
from flagrelease.ports.command import service
from flagrelease.store import locks
from flagrelease.store.files import write_atomic

_BOOT_SECONDS = 120.0
_HOMES = 16
_DATABASE = "prefect.db"
_UVICORN = (sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app")
_SERVER_ONLY = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",  # unused; delays the start by two thirds of a second
}
_CLIENT_SECRETS = ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_CLIENT_CUSTOM_HEADERS")
"""What Prefect's client sends to the server at PREFECT_API_URL; the embedded one asks for nothing."""
_HINT = "`--engine inline` runs the same plan without Prefect"


@dataclass(frozen=True)
class Server:
    """A Prefect API server."""

    url: str
    environment: Mapping[str, str]
    """Variables to set before the Prefect client is imported."""
    withheld: tuple[str, ...]
    """Variables to remove before that: the client's credentials for another server."""
    ready: Callable[[], None]
    """Waits until the server answers. Raises EnvironmentFault if it does not."""


@contextmanager
def server(root: Path, run_id: str) -> Iterator[Server]:
    """The server at `PREFECT_API_URL`, or an embedded one with its home under `root`.

    The embedded server is not ready yet when the block begins, so that the client can be imported while it starts. It
    stops with the block or with this process. Raises EnvironmentFault if it does not start.
    """
    given = os.environ.get("PREFECT_API_URL")
    with ExitStack() as stack:
        home = _free_home(root, run_id, stack)
        common = {
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_LOGGING_LEVEL": "CRITICAL",
        }
        if given:
            hint = f"check PREFECT_API_URL, or {_HINT}"
            yield Server(given, common, (), lambda: _wait(given, 10.0, lambda: None, hint))
            return
        _copy_template(home)
        port = _free_port()
        url = f"http://127.0.0.1:{port}/api"
        common |= {"PREFECT_LOGGING_TO_API_ENABLED": "false"}
        log = home / "server.log"
        process = stack.enter_context(
            service(
                [*_UVICORN, "--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"],
                env={**common, **_SERVER_ONLY},
                log=log,
            )
        )

        def died() -> None:
            if process.poll() is not None:
                tail = log.read_text(errors="replace").strip().splitlines()
                raise EnvironmentFault(
                    f"the embedded Prefect server ended with {process.returncode}",
                    why=tail[-1] if tail else "no output",
                    hint=_HINT,
                    detail="\n".join(tail[-20:]),
                )

        def ready() -> None:
            _wait(url, _BOOT_SECONDS, died, _HINT)
            _keep_template(home)

        yield Server(url, {**common, "PREFECT_API_URL": url}, _CLIENT_SECRETS, ready)


def _free_home(root: Path, run_id: str, stack: ExitStack) -> Path:
    """A home that no other run uses: two servers must not share one SQLite file."""
    for number in range(_HOMES):
        try:
            stack.enter_context(locks.hold(root / f"{number}.lock", "the Prefect home", run_id))
        except Busy:
            continue
        home = root / str(number)
        home.mkdir(parents=True, exist_ok=True)
        return home
    raise EnvironmentFault(f"all {_HOMES} Prefect homes under {root} are in use", hint=_HINT)


def template() -> Path:
    """The path of a database with Prefect's migrations applied, which halves the first start."""
    return Path(sys.prefix) / "share" / "flagrelease" / f"prefect-{metadata.version('prefect')}.db"


def _copy_template(home: Path) -> None:
    database = home / _DATABASE
    if not database.exists() and template().exists():
        write_atomic(database, template().read_bytes())


def _keep_template(home: Path) -> None:
    """Copy a newly created database to the template, unless the installation is read-only."""
    if template().exists():
        return
    with suppress(OSError, sqlite3.Error, FlagreleaseError), tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / _DATABASE
        with closing(sqlite3.connect(home / _DATABASE)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        write_atomic(template(), copy.read_bytes())


def main() -> None:
    """Create the template, once per installation: `python -m flagrelease.run.executors.prefect_server`."""
    with tempfile.TemporaryDirectory() as scratch, server(Path(scratch), "setup") as started:
        started.ready()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(url: str, seconds: float, died: Callable[[], None], hint: str) -> None:
    # Loopback requests must not go through a proxy from the environment.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + seconds
    problem = "no answer"
    while time.monotonic() < deadline:
        died()
        try:
            with opener.open(f"{url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError) as error:
            problem = str(getattr(error, "reason", error))
        time.sleep(0.05)
    raise EnvironmentFault(f"the Prefect server at {url} did not answer in {seconds:.0f} s", why=problem, hint=hint)


if __name__ == "__main__":
    main()
