"""Client of a container registry (OCI distribution protocol v1.1)."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode, urlsplit

from flagrelease.errors import Corrupt, RegistryDenied, UpstreamRefused
from flagrelease.ports.clock import Clock, SystemClock
from flagrelease.ports.credentials import TOKEN_SERVER, Credentials, Logins
from flagrelease.ports.http import Origin, challenges, is_loopback, origin, public_authorities, trusting
from flagrelease.ports.registry.answers import CA_HINT, accepted, described, media_type, unavailable
from flagrelease.ports.registry.manifests import (
    INDEX_TYPE,
    MANIFEST_TYPE,
    MANIFEST_TYPES,
    PORTAL,
    Manifest,
    manifest_type,
)
from flagrelease.ports.retry import Backoff, retriable, retry
from flagrelease.redact import remember

if TYPE_CHECKING:
    import httpx

__all__ = ["INDEX_TYPE", "MANIFEST_TYPE", "MANIFEST_TYPES", "MOVABLE", "PIECE", "Manifest", "OciRegistry", "Registry"]

MOVABLE = ("latest",)
"""Tags that may be moved to another digest."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_BACKOFF = Backoff(first=0.5, most=15.0, budget=60.0)
_ONCE = Backoff(budget=0.0)
PIECE = 16 << 20
"""Bytes of one request of an upload: proxies before registries limit them, and this much is held in memory."""
_QUIET_SECONDS = 60.0
"""Silence after which an attempt has failed; manifests are small, and Docker moves the layers."""


class Registry(Protocol):
    """`repository` is HOST/NAME; a reference is a tag or `sha256:…`."""

    def digest(self, repository: str, reference: str) -> str | None:
        """The digest that the reference names; None if the registry does not have it."""
        ...

    def manifest(self, repository: str, reference: str) -> Manifest: ...
    def blob(self, repository: str, digest: str) -> bytes: ...
    def read_blob(self, repository: str, digest: str) -> Iterator[bytes]: ...
    def push_blob(self, repository: str, data: bytes) -> str: ...
    def referrers(self, repository: str, digest: str) -> bytes | None: ...
    def put_manifest(self, repository: str, reference: str, body: bytes, media_type: str) -> str: ...
    def tag(self, repository: str, digest: str, tag: str) -> None: ...
    def check_push(self, repository: str) -> None: ...


class OciRegistry:
    """The real client, with basic and bearer authentication; plain HTTP on loopback.

    Credentials are sent to the registry's own origin only, whatever addresses it names, and to the server that grants
    tokens if the operator named it. 408, 429, 5xx and lost connections are retried within the budget of `backoff`; 401
    and 403 never. All methods raise RegistryUnavailable, RegistryDenied, UpstreamRefused.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        backoff: Backoff = _BACKOFF,
        known: Callable[[str], Credentials | None] = Logins(),  # noqa: B008 - immutable
        seconds: float = _QUIET_SECONDS,
        authorities: Mapping[str, Path] | None = None,
    ) -> None:
        """`authorities` has, by HOST[:PORT], the PEM file of a private authority that signed its certificate; it is
        trusted in addition to the public ones, and for that host only."""
        self._quiet_seconds = seconds
        self._authorities = authorities or {}
        self._clock = clock or SystemClock()
        self._backoff = backoff
        self._known = known
        self._tokens: dict[tuple[str, str], str] = {}
        self._withheld: dict[str, Origin] = {}
        self._clients: dict[tuple[bool, Path | None], httpx.Client] = {}

    def digest(self, repository: str, reference: str) -> str | None:
        answer = self._call("HEAD", repository, f"manifests/{reference}", accept=MANIFEST_TYPES, missing=True)
        if answer.status_code == 404:
            return None
        found: str = answer.headers.get("Docker-Content-Digest", "")
        asked = reference if reference.startswith("sha256:") else found
        # The specification makes the header optional. Without it, or if the answer is not that of a registry, the body
        # decides.
        if _DIGEST.fullmatch(found) and found == asked and media_type(answer) in MANIFEST_TYPES:
            return found
        return self.manifest(repository, reference).digest

    def manifest(self, repository: str, reference: str) -> Manifest:
        answer = self._call("GET", repository, f"manifests/{reference}", accept=MANIFEST_TYPES)
        body = answer.content
        stored_as = manifest_type(media_type(answer), body, f"{repository} for {reference}")
        digest = _sha256(body)
        promised = {answer.headers.get("Docker-Content-Digest", digest)}
        if reference.startswith("sha256:"):
            promised.add(reference)
        if other := sorted(promised - {digest}):
            raise Corrupt(
                f"{repository} sent a manifest other than {other[0]}", why=f"its digest is {digest}", hint=_TAMPERED
            )
        return Manifest(digest=digest, media_type=stored_as, body=body)

    def blob(self, repository: str, digest: str) -> bytes:
        """A small blob, such as an image's configuration, verified."""
        answer = self._call("GET", repository, f"blobs/{digest}")
        if _sha256(answer.content) != digest:
            why = f"its digest is {_sha256(answer.content)}"
            raise Corrupt(f"{repository} sent a blob other than {digest}", why=why, hint=_TAMPERED)
        return answer.content

    def has_blob(self, repository: str, digest: str) -> bool:
        return self._call("HEAD", repository, f"blobs/{digest}", missing=True).status_code == 200

    def lost_blob(self, repository: str, digest: str) -> bool:
        """Whether the registry says that it does not have the blob. Raises UpstreamRefused if it does not say."""
        answer = self._call("HEAD", repository, f"blobs/{digest}", missing=True)
        if answer.status_code == 405:
            raise UpstreamRefused(f"{repository} does not say which blobs it has", why=described(answer))
        return answer.status_code == 404

    def check_answers(self, repository: str) -> None:
        """Raise unless a registry answers at the host of `repository`: a 404 of anything else means nothing."""
        with suppress(RegistryDenied):  # which is an answer of a registry
            self._call("GET", repository, "/v2/")

    def push_blob(self, repository: str, data: bytes) -> str:
        """Store a blob, unless the registry has it; return its digest."""
        digest = _sha256(data)
        if not self.has_blob(repository, digest):
            self._finish(repository, self._upload_location(repository), digest, data)
        return digest

    def mount_blob(self, repository: str, digest: str, source: str) -> bool:
        """Take over a blob from the repository `source` of the same registry, without moving it. False if the registry
        does not do that."""
        query = urlencode({"mount": digest, "from": source.partition("/")[2]})
        answer = self._call("POST", repository, f"blobs/uploads/?{query}", missing=True)
        if answer.status_code == 201:
            return True
        self._cancel(repository, answer.headers.get("Location", ""))
        return False

    def read_blob(self, repository: str, digest: str) -> Iterator[bytes]:
        """A blob of any size, in pieces that are not verified. One attempt."""
        host, _, name = repository.partition("/")
        url = f"{self._base(host)}/v2/{name}/blobs/{digest}"
        client = self._client(host)

        def answered() -> AbstractContextManager[httpx.Response]:
            return client.stream("GET", url, headers=self._authorised(host, url, {"Accept-Encoding": "identity"}))

        with self._translated_errors(repository, url), ExitStack() as stack:
            answer = stack.enter_context(answered())
            if answer.status_code == 401 and self._authenticate(client, host, url, answer):
                answer = stack.enter_context(answered())
            if answer.status_code >= 400:
                answer.read()
            yield from self._checked(answer, repository, url).iter_raw(PIECE)

    def write_blob(self, repository: str, digest: str, pieces: Iterator[bytes]) -> None:
        """Store a blob of any size. One attempt, which leaves nothing behind if it fails."""
        location, at = self._upload_location(repository), 0
        for piece in pieces:
            sent = {"Content-Type": "application/octet-stream", "Content-Range": f"{at}-{at + len(piece) - 1}"}
            answer = self._call("PATCH", repository, location, content=piece, headers=sent, backoff=_ONCE)
            location, at = answer.headers.get("Location", location), at + len(piece)
        self._finish(repository, location, digest, b"", backoff=_ONCE)

    def _finish(self, repository: str, location: str, digest: str, data: bytes, backoff: Backoff | None = None) -> None:
        url = f"{location}{'&' if '?' in location else '?'}digest={digest}"
        sent = {"Content-Type": "application/octet-stream"}
        answer = self._call("PUT", repository, url, content=data, headers=sent, backoff=backoff)
        if answer.status_code != 201:
            raise UpstreamRefused(
                f"{repository} did not confirm that it stored a blob", why=described(answer), hint=PORTAL
            )

    def referrers(self, repository: str, digest: str) -> bytes | None:
        """The index of the manifests whose subject is this digest; None from a registry without that API."""
        answer = self._call("GET", repository, f"referrers/{digest}", accept=(INDEX_TYPE,), missing=True)
        return answer.content if answer.status_code == 200 and media_type(answer) == INDEX_TYPE else None

    def put_manifest(self, repository: str, reference: str, body: bytes, media_type: str) -> str:
        """Store a manifest under a tag or its digest; return the digest that the registry confirmed."""
        answer = self._call(
            "PUT", repository, f"manifests/{reference}", content=body, headers={"Content-Type": media_type}
        )
        if answer.status_code != 201:
            raise UpstreamRefused(
                f"{repository} did not confirm that it stored a manifest", why=described(answer), hint=PORTAL
            )
        digest = _sha256(body)
        confirmed = answer.headers.get("Docker-Content-Digest", digest)
        if confirmed != digest:
            raise UpstreamRefused(
                f"{repository} stored a manifest other than the one sent",
                why=f"{confirmed}, not {digest}",
                hint=_TAMPERED,
            )
        return digest

    def tag(self, repository: str, digest: str, tag: str) -> None:
        """Point a tag at a digest; idempotent. A tag that names another digest is never moved, except `latest`.

        Raises UpstreamRefused if the tag is taken or invalid.
        """
        if not _TAG.fullmatch(tag):
            raise UpstreamRefused(f"{tag!r} is not a valid tag", why="see the OCI distribution specification")
        taken = self.digest(repository, tag)
        if taken == digest:
            return
        if taken is not None and tag not in MOVABLE:
            raise UpstreamRefused(
                f"{repository}:{tag} is taken",
                why=f"it names {taken}, not {digest}",
                hint="a published tag is never moved: release under a new tag, or find out who pushed this one",
            )
        manifest = self.manifest(repository, digest)
        self.put_manifest(repository, tag, manifest.body, manifest.media_type)

    def check_push(self, repository: str) -> None:
        """Check push access by opening an upload and cancelling it. Raises RegistryDenied without access."""
        self._cancel(repository, self._upload_location(repository))

    def _cancel(self, repository: str, location: str) -> None:
        # Not every registry can cancel; an upload that was only opened costs it nothing. One that it opened elsewhere
        # could be cancelled with its credentials only, which are for no other origin.
        if location and ("://" not in location or self._own(repository.partition("/")[0], location)):
            self._call("DELETE", repository, location, missing=True)

    def _upload_location(self, repository: str) -> str:
        answer = self._call("POST", repository, "blobs/uploads/")
        location: str = answer.headers.get("Location", "")
        if not location or answer.status_code not in (201, 202):
            why = "no Location header" if not location else described(answer)
            raise UpstreamRefused(f"{repository} opened an upload at no address", why=why, hint=PORTAL)
        return location

    def _client(self, host: str) -> httpx.Client:
        loopback, authority = is_loopback(host), self._authorities.get(host)
        if (loopback, authority) not in self._clients:
            import httpx

            # Ignore the environment's proxy for a registry on this machine.
            timeout = httpx.Timeout(self._quiet_seconds, connect=min(30.0, self._quiet_seconds))
            self._clients[loopback, authority] = httpx.Client(
                timeout=timeout,
                trust_env=not loopback,
                follow_redirects=True,
                verify=public_authorities(trust_env=not loopback) if authority is None else trusting(authority),
            )
        return self._clients[loopback, authority]

    def _base(self, host: str) -> str:
        """SCHEME://HOST. A registry of this machine has no certificate, unless an authority is named for it."""
        return f"{'http' if is_loopback(host) and host not in self._authorities else 'https'}://{host}"

    def _own(self, host: str, url: str) -> bool:
        """Whether the URL is at the registry's own origin, the only one that its credentials are for."""
        return origin(url) == origin(self._base(host))

    def _call(
        self,
        method: str,
        repository: str,
        path: str,
        *,
        accept: tuple[str, ...] = (),
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
        missing: bool = False,
        backoff: Backoff | None = None,
    ) -> httpx.Response:
        host, _, name = repository.partition("/")
        url = path if "://" in path else self._base(host) + (path if path.startswith("/") else f"/v2/{name}/{path}")
        sent = {**(headers or {}), **({"Accept": ", ".join(accept)} if accept else {})}

        def attempt() -> httpx.Response:
            with self._translated_errors(repository, url):
                answer = self._try(method, host, url, sent, content)
            return self._checked(answer, repository, url, missing=missing)

        return retry(attempt, self._backoff if backoff is None else backoff, self._clock)

    def _try(self, method: str, host: str, url: str, headers: Mapping[str, str], content: bytes) -> httpx.Response:
        client = self._client(host)
        answer = client.request(method, url, headers=self._authorised(host, url, headers), content=content or None)
        if answer.status_code == 401 and self._authenticate(client, host, url, answer):
            answer = client.request(method, url, headers=self._authorised(host, url, headers), content=content or None)
        return answer

    @contextmanager
    def _translated_errors(self, repository: str, url: str) -> Iterator[None]:
        """Translate the HTTP client's errors into ours."""
        import httpx

        host = repository.partition("/")[0]
        host = host if self._own(host, url) else urlsplit(url).netloc
        try:
            yield
        except (httpx.TooManyRedirects, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise UpstreamRefused(f"the registry at {host} names no usable address", why=str(error)) from error
        except httpx.TransportError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise UpstreamRefused(
                    f"the certificate of {host} is not trusted", why=str(error), hint=CA_HINT
                ) from error
            trouble = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise unavailable(host, None, trouble) from error

    def _checked(self, answer: httpx.Response, repository: str, url: str, *, missing: bool = False) -> httpx.Response:
        if retriable(answer.status_code):
            raise unavailable(repository, answer, "")
        host = repository.partition("/")[0]
        elsewhere = None if self._own(host, url) else origin(url)
        return accepted(answer, repository, missing=missing, withheld=self._withheld.get(host), elsewhere=elsewhere)

    def _authorised(self, host: str, url: str, headers: Mapping[str, str]) -> dict[str, str]:
        token = self._tokens.get((host, _scope(url))) if self._own(host, url) else None
        return {**headers, **({"Authorization": token} if token else {})}

    def _authenticate(self, client: httpx.Client, host: str, url: str, answer: httpx.Response) -> bool:
        """Store the authorization that the challenge asks for. False if there is none left to try."""
        import httpx

        if not self._own(host, str(answer.url)):
            return False
        offered = dict(reversed(challenges(answer.headers.get("WWW-Authenticate", ""))))
        known = self._known(host)
        key = (host, _scope(url))
        if "bearer" in offered:
            token = self._granted(client, host, offered["bearer"], known)
            # Replace an expired token; but if the token just granted was rejected, access is denied.
            if not token or self._tokens.get(key) == f"Bearer {token}":
                return False
            self._tokens[key] = f"Bearer {token}"
            return True
        if "basic" in offered and known and key not in self._tokens:
            basic = httpx.BasicAuth(known.user, known.password)
            self._tokens[key] = next(basic.auth_flow(httpx.Request("GET", url))).headers["Authorization"]
            return True
        return False

    def _granted(
        self, client: httpx.Client, host: str, challenge: Mapping[str, str], known: Credentials | None
    ) -> str | None:
        """The token that the challenge's server grants; None if it refuses. Raises RegistryUnavailable,
        UpstreamRefused."""
        import httpx

        realm = challenge.get("realm", "")
        address = self._base(host) + realm if realm.startswith("/") else realm
        server, own = origin(address), origin(self._base(host))
        # In the clear, a token is anyone's; and a registry elsewhere has no business with servers of this machine.
        local = server is not None and server.private and is_loopback(host)
        if server is None or not (server.scheme == "https" or local):
            return None
        if known and server not in (own, origin(os.environ.get(TOKEN_SERVER, "").strip())):
            self._withheld[host] = server
            known = None
        asked = {name: challenge[name] for name in ("service", "scope") if name in challenge}
        auth = httpx.BasicAuth(known.user, known.password) if known else None
        granted = client.get(address, params=asked, auth=auth)
        if retriable(granted.status_code):
            raise unavailable(host, granted, "")
        if granted.status_code != 200:
            return None
        try:
            document: dict[str, Any] = granted.json()
            token = document.get("token") or document.get("access_token")
        except (ValueError, AttributeError, RecursionError) as error:
            what = f"{server}, which grants the tokens of {host}, sent no token"
            raise UpstreamRefused(what, why=f"not the JSON of one: {error}"[:200]) from None
        if not isinstance(token, str) or not token.isprintable():
            return None
        remember(f"token of {host}", token)
        return token


_TAMPERED = "something between this machine and the registry alters the content; do not publish from it"


def _scope(url: str) -> str:
    """The repository in the URL: a token is valid for one repository."""
    found = re.search(r"/v2/(.+?)/(?:manifests|blobs|referrers|tags)/", url)
    return found.group(1) if found else ""


def _sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
