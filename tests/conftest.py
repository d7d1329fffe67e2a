"""Real parts for tests: the Docker Engine of this machine, and registries of one's own on free ports."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flagrelease.errors import DockerUnavailable
from flagrelease.ports.docker import Engine

# Read when tqdm is first imported, which in one process of many tests may be long before the hub's client is.
os.environ.setdefault("TQDM_DISABLE", "1")

ROOT = Path(__file__).parents[1]
BASE = "flagrelease-base:bookworm"


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


@pytest.fixture(scope="module")
def own_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a docker-registry that only this test module uses, so that it has no layer yet."""
    unpacked = ROOT / ".cache/docker-registry/usr/bin/docker-registry"
    program = shutil.which("docker-registry") or (str(unpacked) if unpacked.exists() else None)
    if program is None:
        pytest.skip("no docker-registry program; `make setup` fetches it")
    folder = tmp_path_factory.mktemp("registry")
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
