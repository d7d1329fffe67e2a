"""The docker CLI's configuration file. It may be damaged: little of what we do needs it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flagrelease.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ConfigFile:
    """What the file says; nothing if there is none or if it cannot be read."""

    path: Path | None = None
    content: Mapping[str, Any] = field(default_factory=dict, repr=False)
    fault: str = ""
    """Why it cannot be read."""

    def general(self) -> dict[str, Any]:
        """The settings that docker-py takes over, as far as they have the form that it expects."""
        kept: dict[str, Any] = {}
        proxies, headers = _mapping(self.content.get("proxies")), _mapping(self.content.get("HttpHeaders"))
        if proxies and all(isinstance(proxy, dict) for proxy in proxies.values()):
            kept["proxies"] = proxies
        if headers and all(isinstance(text, str) for text in headers.values()):
            kept["HttpHeaders"] = headers
        return kept

    def logins(self) -> tuple[dict[str, Any], dict[str, str]]:
        """docker-py's form of the logins, and why a host's login cannot be read, by host."""
        from docker import auth

        if self.fault:
            with suppress(AttributeError):  # of JSON that is not an object
                # The form before JSON, one setting a line; empty if it is not that either.
                return dict(auth.load_config(str(self.path))), {}
            return {"auths": {}}, {}
        stores = {name: self.content[name] for name in ("credsStore", "credHelpers") if self.content.get(name)}
        given = self.content.get("auths")
        # Before there were sections, the whole file was that of logins.
        entries = {**self.content} if given is None and not stores else _mapping(given)
        logins: dict[str, Any] = {}
        faults: dict[str, str] = {}
        for host, entry in entries.items():
            try:
                # One by one: docker-py refuses all of them for one that is damaged.
                logins |= auth.AuthConfig.parse_auth({host: entry}, raise_on_error=True)
            except Exception:  # its parser raises whatever it stumbles over
                if given is not None:
                    faults[host] = f"the entry of {host} is not a login: its `auth` is not USER:PASSWORD in base64"
        found = {"auths": logins}
        if isinstance(stores.get("credsStore"), str):
            found["credsStore"] = stores["credsStore"]
        if helpers := _mapping(stores.get("credHelpers")):
            found["credHelpers"] = helpers
        return found, faults

    def ignored(self) -> ConfigError | None:
        """What to tell the user if the file cannot be read; None if it can be, or if there is none."""
        if not self.fault:
            return None
        hint = "correct it or move it away; until then its logins, proxies and docker context are not used"
        return ConfigError(f"{self.path} cannot be read", why=self.fault, hint=hint)


def folder() -> Path:
    """The folder of the docker CLI's configuration."""
    return Path(os.environ.get("DOCKER_CONFIG") or "~/.docker").expanduser()


def read() -> ConfigFile:
    """The file that the docker CLI reads. docker-py also reads the home folder's where DOCKER_CONFIG names another."""
    oldest = [] if os.environ.get("DOCKER_CONFIG") else [Path("~/.dockercfg").expanduser()]
    path = next((path for path in [folder() / "config.json", *oldest] if _exists(path)), None)
    if path is None:
        return ConfigFile()
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        fault = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        return ConfigFile(path=path, fault=fault)
    if not isinstance(content, dict):
        return ConfigFile(path=path, fault="it is not a JSON object")
    return ConfigFile(path=path, content=content)


def _exists(path: Path) -> bool:
    """Also if it cannot be looked at, which reading it then reports."""
    try:
        return path.exists()
    except OSError:
        return True


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
