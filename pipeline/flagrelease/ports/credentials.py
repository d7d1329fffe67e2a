"""Credentials, each for one host; from the environment or from `docker login`, never from a command line."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flagrelease.errors import ConfigError
from flagrelease.ports.docker import config_file
from flagrelease.ports.http import origin
from flagrelease.redact import redact, remember

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
    targets: Mapping[str, str] = field(default_factory=dict)
    """By HOST[:PORT] of another registry, the prefix of the variables with its credentials: PREFIX_USER and
    PREFIX_PASSWORD."""

    def __call__(self, host: str) -> Credentials | None:
        """The credentials for the registry at `host`; None if there are none, for anonymous access.

        Raises ConfigError if the environment's cannot be sent.
        """
        if self.own and origin(f"https://{host}") == origin(f"https://{self.own}"):
            user, password = from_environment(USER), from_environment(PASSWORD)
            if user and password:
                return _known(host, user, password)
        for other, prefix in self.targets.items():
            if origin(f"https://{host}") == origin(f"https://{other}"):
                user, password = from_environment(f"{prefix}_USER"), from_environment(f"{prefix}_PASSWORD")
                if user and password:
                    return _known(host, user, password)
        return docker_login(host)[0]


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


def required_token(hub: str, endpoint: str, name: str, hint: str) -> str:
    """The token for writing to the hub at `endpoint`, which needs one. Raises ConfigError, with `hint`, if there is
    none or if it cannot be sent there."""
    token = token_for(endpoint, name)
    if not token:
        why = f"{endpoint} is plain http, where others could read it" if token is None else "it is not set"
        raise ConfigError(f"{hub} needs {name}", why=why, hint=hint)
    return token


def docker_login(host: str) -> tuple[Credentials | None, str]:
    """What `docker login` stored, in the file or by a credential helper; and why it cannot be read, if so.

    What cannot be read is no login: most registries that are only read need none, and those that do refuse.
    """
    from docker import auth

    warnings.filterwarnings("ignore", message="docker-credential-")  # not installed: docker-py also raises it
    file = config_file.read()
    logins, faults = file.logins()
    _remember(logins.get("auths", {}))
    fault = file.fault or next((why for name, why in faults.items() if auth.resolve_index_name(name) == host), "")
    try:
        found = auth.AuthConfig(logins).resolve_authconfig(host)
    except Exception as error:  # a helper that is missing or fails, in ways of its own
        fault, found = str(error), auth.AuthConfig({"auths": logins["auths"]}).resolve_authconfig(host)
    # The file gives `username`, a helper `Username`.
    known = {name.lower(): value for name, value in (found or {}).items()}
    if known.get("username") and known.get("password"):
        return _known(host, known["username"], known["password"]), ""
    return None, redact(fault)


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
