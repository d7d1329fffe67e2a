"""A docker-registry that wants a login, on a free port."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from support.authority import Certificates

UNPACKED = Path(__file__).parents[2] / ".cache/docker-registry/usr/bin/docker-registry"


@contextmanager
def login_registry(folder: Path, user: str, password: str, certificates: Certificates | None = None) -> Iterator[str]:
    """HOST:PORT; its files are in `folder`/data. With certificates, it speaks TLS."""
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
    tls = "" if certificates is None else f", tls: {{certificate: {certificates.certificate}, key: {certificates.key}}}"
    scheme = "http" if certificates is None else "https"
    trusted = True if certificates is None else ssl.create_default_context(cafile=certificates.authority)
    (folder / "config.yml").write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}\n"
        f'http: {{addr: "127.0.0.1:{port}"{tls}}}\nauth: {{htpasswd: {{realm: r, path: {folder}/htpasswd}}}}\n'
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        for _ in range(100):
            try:
                asked = httpx.get(f"{scheme}://127.0.0.1:{port}/v2/", trust_env=False, verify=trusted)
                assert asked.status_code == 401
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
