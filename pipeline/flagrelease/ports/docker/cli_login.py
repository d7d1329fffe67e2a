"""Log the docker CLI in for one command with a login that it does not have itself."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flagrelease.ports.credentials import Credentials, docker_login
from flagrelease.ports.docker import config_file

__all__ = ["logged_in"]

_HELPER = "flagrelease"
_LOGINS = ("auths", "credsStore", "credHelpers")
_DOCKER_HUB = {"docker.io": "https://index.docker.io/v1/"}


@contextmanager
def logged_in(host: str, login: Credentials | None) -> Iterator[Mapping[str, str]]:
    """The environment in which the CLI is logged in at `host`; empty if it is by itself, or if there is no login.

    A credential helper reads the login from the memory of this process, so that it is in no file and no environment,
    and ends with this process however that ends.
    """
    if login is None or login == docker_login(host)[0]:
        yield {}
        return
    answer = json.dumps({"ServerURL": host, "Username": login.user, "Secret": login.password}).encode()
    memory = os.memfd_create("login")
    try:
        os.write(memory, answer)
        with tempfile.TemporaryDirectory(prefix="flagrelease-docker-") as folder:
            _write(Path(folder), host, f"/proc/{os.getpid()}/fd/{memory}")
            path = os.environ.get("PATH", os.defpath)
            yield {"DOCKER_CONFIG": folder, "PATH": f"{folder}{os.pathsep}{path}"}
    finally:
        os.close(memory)


def _write(folder: Path, host: str, answer: str) -> None:
    """The user's configuration, with this login in place of the user's."""
    kept = {name: value for name, value in config_file.read().content.items() if name not in _LOGINS}
    content = {**kept, "credHelpers": {_DOCKER_HUB.get(host, host): _HELPER}}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    for name in ("contexts", "cli-plugins"):
        if (config_file.folder() / name).is_dir():
            (folder / name).symlink_to(config_file.folder().absolute() / name)
    helper = folder / f"docker-credential-{_HELPER}"
    helper.write_text(f"#!/bin/sh\ncat >/dev/null\nexec cat {answer}\n", encoding="utf-8")
    helper.chmod(0o700)
