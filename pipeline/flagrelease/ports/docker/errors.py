"""Translate the errors of Docker Engine, docker-py and the socket into ours."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flagrelease.errors import (
    DockerUnavailable,
    EnvironmentFault,
    FlagreleaseError,
    NoSpace,
    PortInUse,
    RegistryDenied,
    RegistryUnavailable,
    UpstreamRefused,
)
from flagrelease.redact import redact

RESTART = "restart it (`systemctl restart docker`)"
"""What to do about an engine that hangs."""
AGAIN = " and run again: finished stages are kept"
"""What to do then, after work has begun."""

_DENIED = ("unauthorized", "authentication required", "denied", "no basic auth credentials", "forbidden")
_BROKEN = (
    "connection refused",
    "connection reset",
    "broken pipe",
    "eof",
    "timeout",
    "no such host",
    "received unexpected http status: 5",
    "500 internal",
    "502 bad",
    "503 service",
    "504 gateway",
    "error parsing http 408",  # without the body that the protocol asks for
    "error parsing http 429",
    "toomanyrequests",
    "too many requests",
)


def stream_error(doing: str, message: Mapping[str, Any], detail: str = "") -> FlagreleaseError:
    text = str((message.get("errorDetail") or {}).get("message") or message["error"]).strip()
    return _classified(doing, text, detail)


def _classified(doing: str, text: str, detail: str = "") -> FlagreleaseError:
    """Classify an engine's message by its text, since the engine sends no codes."""
    low, text = text.lower(), redact(text)
    if "no space left" in low or "disk quota" in low:
        return NoSpace(f"no space left while {doing}", why=text, hint="`docker system df` shows what takes the space")
    if "port is already allocated" in low or "address already in use" in low:
        return PortInUse(f"a port is in use while {doing}", why=text, hint="stop what listens there, or run again")
    if doing.startswith(("pushing", "pulling")):
        if any(sign in low for sign in _DENIED):
            return RegistryDenied(
                f"the registry refused {doing}",
                why=text,
                hint="set FLAGRELEASE_REGISTRY_USER and FLAGRELEASE_REGISTRY_PASSWORD, or run `docker login`",
            )
        if any(sign in low for sign in _BROKEN):
            return RegistryUnavailable(
                f"the registry failed while {doing}", why=text, hint="`flagrelease doctor` checks whether it is up"
            )
        return UpstreamRefused(f"the registry refused {doing}", why=text)
    return EnvironmentFault(f"{doing} failed", why=text.splitlines()[-1] if text else "", detail=detail or text)


@contextmanager
def translated(doing: str, tried: str = "") -> Iterator[None]:
    """Translate the exceptions of docker-py, requests and the socket into our errors. `tried` is the engine's address,
    for the hint."""
    import docker
    import requests
    import urllib3

    try:
        yield
    except docker.errors.ContainerError as error:
        stderr = error.stderr or b""
        printed = (stderr.decode(errors="replace") if isinstance(stderr, bytes) else stderr).strip()
        raise EnvironmentFault(
            f"{doing} ended with {error.exit_status}", why=printed.splitlines()[-1] if printed else "", detail=printed
        ) from None
    except docker.errors.APIError as error:
        raise _classified(doing, str(error.explanation or error)) from error
    except (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _unavailable(doing, error, tried) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _unavailable(doing, error, tried) from error
    except json.JSONDecodeError as error:
        raise _unavailable(doing, error, tried) from error


def _unavailable(doing: str, error: Exception, tried: str) -> DockerUnavailable:
    during = "" if doing.endswith("Docker Engine") else f" while {doing}"
    hint = (RESTART if _timed_out(error) else _start(tried)) + (AGAIN if during else "")
    return DockerUnavailable(
        f"Docker Engine does not answer{during}",
        why=_reported(error),
        hint=(f"tried {tried}: " if tried else "") + hint,
    )


def _start(tried: str) -> str:
    """What to do about an engine that is away; if a setting names its address, that may be wrong."""
    named_by = tried.partition(", from ")[2]
    if not named_by:
        start = "start it (`make setup` in a checkout, or `systemctl start docker`)"
    else:
        start = f"start it, or {'unset DOCKER_HOST' if named_by == 'DOCKER_HOST' else 'set DOCKER_CONTEXT=default'}"
    return f"{start}, or use `--runner process`, which needs no Docker and publishes nothing"


def _reported(error: Exception) -> str:
    """The system's words for the error of the socket, which is inside those of urllib3, requests and docker-py; without
    one, the last line of what these say."""
    inside: BaseException | None = error
    while inside is not None:
        if isinstance(inside, OSError) and inside.strerror:
            return inside.strerror
        inner = next((part for part in inside.args if isinstance(part, BaseException)), None)
        inside = inner or getattr(inside, "reason", None) or inside.__cause__ or inside.__context__
    return redact(str(error)).splitlines()[-1][:300] if str(error) else type(error).__name__


def _timed_out(error: Exception) -> bool:
    """Whether something accepted the call and did not answer. Requests wraps what it meets inside a stream."""
    return isinstance(error, TimeoutError) or "timed out" in str(error)
