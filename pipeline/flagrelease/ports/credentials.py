"""Credentials, each for one host; from the environment or from `docker login`, never from a command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flagrelease.errors import ConfigError
from flagrelease.ports.http import origin
from flagrelease.redact import remember

USER = "FLAGRELEASE_REGISTRY_USER"
PASSWORD = "FLAGRELEASE_REGISTRY_PASSWORD"  # noqa: S105 - the name of a variable
TOKEN_SERVER = "FLAGRELEASE_REGISTRY_TOKEN_SERVER"  # noqa: S105 - the name of a variable
"""Names the origin, SCHEME://HOST[:PORT], to which the registry's credentials are sent in exchange for a token, if it
is not the registry itself."""


@dataclass(frozen=True)
class Credentials:
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Logins:
    """The credentials for each registry."""

    own: str = ""
    """HOST[:PORT] of the registry of the releases. The environment's credentials are for it alone."""

    def __call__(self, host: str) -> Credentials | None:
        """The credentials for the registry at `host`; None if there are none, for anonymous access.

        Raises ConfigError if the environment's cannot be sent.
        """
        if self.own and origin(f"https://{host}") == origin(f"https://{self.own}"):
            user, password = from_environment(USER), from_environment(PASSWORD)
            if user and password:
                return _known(host, user, password)
        return _docker_login(host)


def from_environment(name: str) -> str:
    """The text of a variable without white space at its ends, which files and secret stores add; empty if it is not
    set. Raises ConfigError if it cannot be a credential."""
    text = os.environ.get(name, "").strip()
    if not text.isprintable():
        raise ConfigError(f"{name} has a line break or another control character", hint=f"set {name} to one line")
    return text


def token_for(endpoint: str, name: str) -> str | None:
    """The token for the server at `endpoint`, from a variable; empty if it is not set, None if no token may be sent
    there because others could read it. Raises ConfigError if it is not a token."""
    audience = origin(endpoint)
    if audience is None or not audience.private:
        return None
    text = from_environment(name)
    if not text.isascii() or any(character in "\"'`,; " for character in text):
        why = "it has quotes, blanks or letters beyond ASCII"
        raise ConfigError(f"{name} is not a token", why=why, hint=f"set {name} to the token alone")
    return text


def _docker_login(host: str) -> Credentials | None:
    """What `docker login` stored, in the file or by a credential helper. What cannot be read is no login: most
    registries that are only read need none, and those that do refuse."""
    from docker import auth, credentials, errors

    try:
        config = auth.load_config()
        _remember(config.auths)
        found: Mapping[str, Any] = config.resolve_authconfig(host) or {}
    except (errors.DockerException, credentials.errors.StoreError, OSError, ValueError, TypeError):
        return None
    # The file gives `username`, a helper `Username`.
    known = {name.lower(): value for name, value in found.items()}
    if known.get("username") and known.get("password"):
        return _known(host, known["username"], known["password"])
    return None


def _known(host: str, user: str, password: str) -> Credentials:
    remember(f"password of {host}", password)
    remember(f"login of {host}", f"{user}:{password}")
    return Credentials(user, password)


def _remember(logins: Mapping[str, Mapping[str, Any]]) -> None:
    """Redact the secrets of all hosts in Docker's file: an error text may quote it."""
    for host, login in logins.items():
        if login.get("password"):
            _known(host, str(login.get("username")), str(login["password"]))
        remember(f"identity token of {host}", str(login.get("IdentityToken") or ""))
