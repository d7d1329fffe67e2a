"""Find Docker Engine as the docker CLI does, and connect to it."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flagrelease.errors import DockerUnavailable
from flagrelease.ports.docker import config_file
from flagrelease.ports.docker.reads import repeat_reads
from flagrelease.redact import redact

_DEFAULT = "unix:///var/run/docker.sock"
_ADDRESS = "set DOCKER_HOST=unix://PATH or tcp://HOST:PORT"
_patching = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """The address of an engine."""

    url: str
    named_by: str = ""
    """The setting that names it; empty for the default."""
    tls: Any = None
    """docker-py's TLSConfig."""

    def __str__(self) -> str:
        return redact(f"{self.url}, from {self.named_by}" if self.named_by else self.url)


def endpoint() -> Endpoint:
    """The engine of DOCKER_HOST, else of DOCKER_CONTEXT, else of the CLI's current context, else of this machine.

    Raises DockerUnavailable if its address cannot be used.
    """
    if os.environ.get("DOCKER_HOST"):
        from docker.errors import DockerException
        from docker.utils import kwargs_from_env

        try:
            given = kwargs_from_env()
        except DockerException as error:
            raise DockerUnavailable(
                "Docker's certificates cannot be used",
                why=str(error),
                hint="put ca.pem, cert.pem and key.pem into the folder DOCKER_CERT_PATH, or unset it and "
                "DOCKER_TLS_VERIFY",
            ) from None
        return _supported(Endpoint(url=given["base_url"].strip(), named_by="DOCKER_HOST", tls=given.get("tls")))
    name, named_by = os.environ.get("DOCKER_CONTEXT"), "DOCKER_CONTEXT"
    if not name:
        found = config_file.read()
        name, named_by = found.content.get("currentContext"), str(found.path)
    if not name or name == "default":
        return Endpoint(url=_DEFAULT)
    return _supported(_of_context(name, named_by))


def _of_context(name: object, named_by: str) -> Endpoint:
    """Read here and not by docker-py, which finds no contexts without a config.json, and no certificates without a key
    among them."""
    what = f"docker context {name}"
    folder = config_file.folder() / "contexts"
    digest = hashlib.sha256(str(name).encode()).hexdigest()
    try:
        given = json.loads((folder / "meta" / digest / "meta.json").read_bytes())["Endpoints"]["docker"]
        host, skip = given["Host"], given.get("SkipTLSVerify", False)
        if not isinstance(host, str):
            raise TypeError("its address is not a text")
        tls = _tls(folder / "tls" / digest / "docker", verify=not skip)
    except FileNotFoundError:
        raise DockerUnavailable(
            f"there is no {what}",
            why=f"{named_by} names it",
            hint=f"`docker context ls` lists them; or {_instead(what)}",
        ) from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
        raise DockerUnavailable(f"{what} cannot be read", why=why, hint=_instead(what)) from None
    return Endpoint(url=host, named_by=what, tls=tls)


def _tls(folder: Path, *, verify: bool) -> Any:
    """The certificates of a context; None if it has none."""
    from docker.tls import TLSConfig

    files = {name: str(folder / name) for name in ("ca.pem", "cert.pem", "key.pem") if (folder / name).is_file()}
    if not files:
        return None
    pair = (files["cert.pem"], files["key.pem"]) if {"cert.pem", "key.pem"} <= files.keys() else None
    return TLSConfig(client_cert=pair, ca_cert=files.get("ca.pem"), verify=verify)


def _supported(found: Endpoint) -> Endpoint:
    from docker.errors import DockerException
    from docker.utils import parse_host

    if found.url.startswith("ssh://"):
        raise DockerUnavailable(
            f"Docker Engine is not used over ssh: {found}",
            why="a release mounts folders of this machine and calls ports on it",
            hint=f"run flagrelease on the engine's machine, or {_instead(found.named_by)}",
        )
    try:
        if found.url.startswith("npipe:") or not found.url:
            raise ValueError("it is neither unix:// nor tcp://")
        parse_host(found.url, tls=found.tls is not None)
    except (DockerException, ValueError) as error:
        raise _refused(found.url, found.named_by, str(error)) from None
    return found


def _refused(url: str, named_by: str, why: str) -> DockerUnavailable:
    what = f"{named_by} is not an address of Docker Engine that can be used: {url or 'it is empty'}"
    return DockerUnavailable(redact(what), why=why, hint=_instead(named_by))


def _instead(named_by: str) -> str:
    """How to use another engine."""
    return f"{_ADDRESS}, or {'unset it' if named_by == 'DOCKER_HOST' else 'DOCKER_CONTEXT=default'}"


def connect(where: Endpoint, *, seconds: float | None, version: str | None = None) -> Any:
    """A client of docker-py without logins: each push and pull brings its own. Its calls fail after so many `seconds`
    of silence; it asks for the engine's version unless that is given."""
    import docker

    limit: Any = seconds  # a fraction will do, and None for no limit
    with _without_logins():
        client = docker.DockerClient(base_url=where.url, tls=where.tls or False, timeout=limit, version=version)
        return repeat_reads(client)


@contextmanager
def _without_logins() -> Iterator[None]:
    """Keep docker-py from reading the CLI's logins. It reads all of them for any client, and fails for a damaged one;
    it sends all with a build, and fails if a credential helper is missing."""
    import docker.api.client
    from docker.auth import AuthConfig

    class NoLogins(AuthConfig):
        is_empty = False  # an empty one makes docker-py read the file again

    module: Any = docker.api.client
    with _patching:
        before = module.auth, module.config
        module.auth = SimpleNamespace(load_config=lambda **_ignored: NoLogins({}))
        module.config = SimpleNamespace(load_general_config=lambda: config_file.read().general())
        try:
            yield
        finally:
            module.auth, module.config = before
