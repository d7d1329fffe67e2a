"""Shared HTTP helpers: origins, loopback, the headers Retry-After and WWW-Authenticate, error responses."""

from __future__ import annotations

import functools
import ipaddress
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flagrelease.errors import ConfigError, error_words

if TYPE_CHECKING:
    import ssl

_PORTS = {"http": 80, "https": 443}
_AUTH_PARAMETER = re.compile(
    r"""[\s,]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:\s*(=)\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*)))?""", re.ASCII
)


@dataclass(frozen=True)
class Origin:
    """The audience of a credential: what is sent to one origin is for no other."""

    scheme: str
    host: str
    """In lower case, without brackets."""
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS.get(self.scheme) else f":{self.port}")

    @property
    def private(self) -> bool:
        """Whether nobody on the way reads what is sent: encrypted, or within this machine."""
        return self.scheme == "https" or _is_loopback(self.host)


def origin(url: str) -> Origin | None:
    """The origin of an http(s) URL; None if it has none."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        return None
    return Origin(parts.scheme, parts.hostname, port) if parts.hostname else None


def retry_after(text: str) -> float | None:
    """The Retry-After header in seconds. A date, its other form, is ignored: clocks differ."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def past_proxies() -> dict[str, str]:
    """Variables for a program that talks to this machine: what NO_PROXY excludes, and loopback."""
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = ",".join(filter(None, (known, "localhost", "127.0.0.1", "::1")))
    return {"NO_PROXY": hosts, "no_proxy": hosts}


def is_loopback(host: str) -> bool:
    """Whether HOST or HOST:PORT is a loopback address."""
    found = origin(f"http://{host}")
    # A host has no user: what is before an @ is not where the request goes.
    return found is not None and "@" not in host and "/" not in host and _is_loopback(found.host)


def public_authorities(*, trust_env: bool = True) -> ssl.SSLContext:
    """The context that httpx makes for a client: making one takes 65 ms, and many clients can share it."""
    known = tuple(os.environ.get(name, "") for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")) if trust_env else ()
    return _context(trust_env, known)


@functools.cache
def _context(trust_env: bool, _known: tuple[str, ...]) -> ssl.SSLContext:
    import httpx

    return httpx.create_ssl_context(trust_env=trust_env)


def trusting(authority: Path) -> ssl.SSLContext:
    """A context that trusts the public authorities and the one in a PEM file. Raises ConfigError if it has none."""
    import ssl  # slow to import, and most registries need none

    context = ssl.create_default_context()
    try:
        context.load_verify_locations(cafile=authority)
    except OSError as error:  # an SSLError is one
        why = error.strerror or str(error)
        hint = "write the path of a PEM file with the authority's certificate"
        raise ConfigError(f"{authority} is not a certificate of an authority", why=why, hint=hint) from None
    return context


def challenges(header: str) -> Sequence[tuple[str, Mapping[str, str]]]:
    """The challenges of WWW-Authenticate, each a scheme in lower case with its parameters. Several headers, joined by
    commas, are read as one."""
    found: list[tuple[str, dict[str, str]]] = []
    for match in _AUTH_PARAMETER.finditer(header):
        name, given, quoted, plain = match.groups()
        if given is None:
            found.append((name.lower(), {}))
        elif found:
            found[-1][1][name.lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
    return found


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refusal(status: int, body: bytes) -> str:
    """An error response in one line: its status and the server's words, else the beginning of its body."""
    try:
        words = error_words(json.loads(body))
    except (ValueError, RecursionError):
        words = ""
    words = words or " ".join(body[:200].decode(errors="replace").split())
    return f"HTTP {status}: {words}" if words else f"HTTP {status}"
