"""A docker-registry that wants a login, on a free port."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

UNPACKED = Path(__file__).parents[2] / ".cache/docker-registry/usr/bin/docker-registry"


@contextmanager
def login_registry(folder: Path, user: str, password: str) -> Iterator[str]:
    """HOST:PORT; its files are in `folder`/data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import crypt
    program = shutil.which("docker-registry") or (str(UNPACKED) if UNPACKED.exists() else None)
    if program is None:
        pytest.skip("no docker-registry program; `make test` fetches it")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir()
    hashed = crypt.crypt(password, crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16))  # noqa: S324 - bcrypt
    (folder / "htpasswd").write_text(f"{user}:{hashed}\n")
    (folder / "config.yml").write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}\n"
        f'http: {{addr: "127.0.0.1:{port}"}}\nauth: {{htpasswd: {{realm: r, path: {folder}/htpasswd}}}}\n'
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        for _ in range(100):
            try:
                assert httpx.get(f"http://127.0.0.1:{port}/v2/", trust_env=False).status_code == 401
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
