"""Registry credentials, from the environment or from `docker login`; never from a command line."""

from __future__ import annotations

import os
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Credentials:
    user: str
    password: str = field(repr=False)


def credentials(host: str) -> Credentials | None:
    """The credentials for the registry at `host`; None if there are none, for anonymous access."""
    user, password = os.environ.get("FLAGRELEASE_REGISTRY_USER"), os.environ.get("FLAGRELEASE_REGISTRY_PASSWORD")
    if user and password:
        return Credentials(user, password)
    from docker import auth

    known = auth.load_config().resolve_authconfig(host)
    if known and known.get("username"):
        return Credentials(known["username"], known["password"])
    return None
