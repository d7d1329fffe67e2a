"""What answers of a registry mean: accepted, denied, refused, or to be tried again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from flagrelease.errors import FlagreleaseError, RegistryDenied, RegistryUnavailable, UpstreamRefused
from flagrelease.ports.credentials import TOKEN_SERVER
from flagrelease.ports.http import Origin, is_loopback, retry_after
from flagrelease.redact import redact

if TYPE_CHECKING:
    import httpx

__all__ = ["CA_HINT", "accepted", "described", "media_type", "unavailable"]

CA_HINT = "if a private authority signed it, name its PEM file: `ca` of the target in matrix.yaml, else SSL_CERT_FILE"
_PUSH_HINT = "set FLAGRELEASE_REGISTRY_USER and FLAGRELEASE_REGISTRY_PASSWORD, or run `docker login`"
_ABSENT_HINT = "check its name; some registries, such as Harbor, want a project to be created before the first push"
_SIZE_HINT = "a proxy before the registry limits the size of requests: raise its limit, such as client_max_body_size"
_UPLOAD_HINT = "uploads must go to the registry's own address: check the external URL in its configuration"


def accepted(
    answer: httpx.Response,
    repository: str,
    *,
    missing: bool,
    withheld: Origin | None = None,
    elsewhere: Origin | None = None,
) -> httpx.Response:
    """The answer if it is a success or, with `missing`, a 404 or 405. Raises RegistryDenied, UpstreamRefused.

    `withheld` is the server for tokens that did not get the credentials; `elsewhere` is the server that answered, if it
    is not the registry itself.
    """
    if answer.status_code < 400 or (missing and answer.status_code in (404, 405)):
        return answer
    why = f"HTTP {answer.status_code}{_reported(answer)}"
    if elsewhere is not None:
        why += f" from {elsewhere}, which the registry names for uploads and which does not get its credentials"
    if answer.status_code in (401, 403):
        hint = _PUSH_HINT if elsewhere is None else _UPLOAD_HINT
        if withheld is not None and elsewhere is None:
            why += f"; the credentials were not sent to {withheld}, which the registry names for tokens"
            hint = f"if that server is the registry's, set {TOKEN_SERVER}={withheld}"
        raise RegistryDenied(f"access denied to {repository}", why=why, hint=hint)
    hint = {404: _ABSENT_HINT, 413: _SIZE_HINT}.get(answer.status_code, "")
    raise UpstreamRefused(f"the registry refused {answer.request.method} of {repository}", why=why, hint=hint)


_START_HINT = "start it: `make setup` in a checkout, or `docker run --detach --publish PORT:5000 registry:2`"
_REACH_HINT = "check the name, and that this machine reaches it"


def unavailable(repository: str, answer: httpx.Response | None, trouble: str) -> FlagreleaseError:
    """The error for a registry that did not answer, or with a failure that may pass."""
    host = repository.partition("/")[0]
    if answer is None:
        return RegistryUnavailable(
            f"no registry answers at {host}", why=trouble, hint=_START_HINT if is_loopback(host) else _REACH_HINT
        )
    why = f"HTTP {answer.status_code}{_reported(answer)}"
    error = RegistryUnavailable(f"the registry at {host} is failing", why=why, hint="check its log, then run again")
    error.after = retry_after(answer.headers.get("Retry-After", ""))
    return error


def media_type(answer: httpx.Response) -> str:
    """The Content-Type without its parameters; empty if there is none."""
    stated: str = answer.headers.get("Content-Type", "")
    return stated.partition(";")[0].strip().lower()


def described(answer: httpx.Response) -> str:
    """The status and the kind of content."""
    return f"HTTP {answer.status_code} with {media_type(answer) or 'no Content-Type'}"


def _reported(answer: httpx.Response) -> str:
    """The registry's error message, if it sent the protocol's error document."""
    try:
        first = json.loads(answer.content)["errors"][0]
        return f", {first.get('code', '')}: {redact(str(first.get('message', '')))[:200]}"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return ""
