"""Real parts for tests: the Docker Engine of this machine, and registries of one's own on free ports."""

from __future__ import annotations

import gc
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import hypothesis
import pytest

from flagrelease.errors import DockerUnavailable
from flagrelease.ports.docker.engine import Engine

# Read when tqdm is first imported, which in one process of many tests may be long before the hub's client is.
os.environ.setdefault("TQDM_DISABLE", "1")

# The clock of a machine with other work decides no result, nor do examples that an earlier run left.
hypothesis.settings.register_profile(
    "flagrelease",
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("flagrelease")

# Tests neither wait for a release on this machine, nor take away what its dead runs left.
_locks = tempfile.TemporaryDirectory(prefix="flagrelease-test-locks-")
os.environ["FLAGRELEASE_LOCKS"] = _locks.name

ROOT = Path(__file__).parents[1]
BASE = "flagrelease-base:bookworm"
LEAST_COVERED = 85
"""Files below this line coverage (percent) are named at the end of `make test`."""


def pytest_collection_finish() -> None:
    """Take what is imported by now out of garbage collection, which Hypothesis starts before each example: three
    million objects take it 0.4 s."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the line coverage of pipeline/ where `make test` measures it: the total, and each file below LEAST_COVERED.
    slipcover has joined what its workers saw by now."""
    measured = Path(os.environ.get("SLIPCOVER_COVERAGE_DIR", os.devnull)) / "merged.json"
    if not measured.is_file():
        return
    files: dict[str, dict[str, list[int]]] = json.loads(measured.read_text())["files"]
    lines = missed = 0
    low: list[str] = []
    for file, seen in sorted(files.items()):
        missing = len(seen["missing_lines"])
        statements = len(seen["executed_lines"]) + missing
        lines, missed = lines + statements, missed + missing
        percent = 100 * (1 - missing / statements) if statements else 100.0
        if percent < LEAST_COVERED:
            low.append(f"{Path(file).relative_to('pipeline')} {percent:.0f} %")
    terminalreporter.section("line coverage")
    terminalreporter.line(f"{100 * (1 - missed / max(1, lines)):.1f} % of {lines:,} lines of pipeline/")
    if low:
        terminalreporter.line(f"below {LEAST_COVERED} %: {', '.join(low)}")


@pytest.fixture(scope="session")
def engine() -> Engine:
    found = Engine()
    try:
        found.version()
    except DockerUnavailable as error:
        pytest.skip(f"{error.line()}; `make setup` starts one")
    return found


@pytest.fixture(scope="session")
def base(engine: Engine) -> str:
    name = os.environ.get("FLAGRELEASE_BASE", BASE)
    if engine.image(name) is None:
        pytest.skip(f"no base image {name}; `make base` makes it")
    return name


@pytest.fixture(scope="session")
def own_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a docker-registry that only these tests use, each under repositories of its own. It is not one a
    module, since Docker would compress the base image again for each."""
    with _registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(scope="module")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same for a module that needs one without any layer."""
    with _registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@contextmanager
def _registry(folder: Path) -> Iterator[str]:
    unpacked = ROOT / ".cache/docker-registry/usr/bin/docker-registry"
    program = shutil.which("docker-registry") or (str(unpacked) if unpacked.exists() else None)
    if program is None:
        pytest.skip("no docker-registry program; `make test` fetches it")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}\n"
        f'http: {{addr: "127.0.0.1:{port}"}}\n'
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
    try:
        for _ in range(100):
            try:
                httpx.get(f"http://127.0.0.1:{port}/v2/", trust_env=False)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        else:
            pytest.fail((folder / "log").read_text()[-2000:])
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
