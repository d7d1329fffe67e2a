"""What the registry client asks for, accepts and says, down to the parts of the protocol that are optional."""

import json
import socket
import threading

import pytest

from flagrelease.errors import RegistryDenied, RegistryUnavailable, UpstreamRefused
from flagrelease.ports.credentials import Credentials
from flagrelease.ports.registry import OciRegistry
from flagrelease.ports.retry import Backoff
from flagrelease.redact import redact
from support.registry_stand_in import Store, standing_in

IMAGE = "application/vnd.oci.image.manifest.v1+json"
TYPES = [
    IMAGE,
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
]
OTHER = "sha256:" + "f" * 64
PART = {"mediaType": "x", "digest": OTHER, "size": 7}
ONCE = Backoff(first=0.01, most=0.01, budget=0.0)


@pytest.fixture
def client() -> OciRegistry:
    """One that tries once."""
    return OciRegistry(backoff=ONCE, known=lambda _host: Credentials("user", "right"))


def manifest(media_type: str = IMAGE, **parts: object) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, **parts}).encode()


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("media_type", TYPES)
def test_images_and_indexes_of_oci_and_docker_are_read(
    media_type: str, digests: bool, store: Store, host: str, client: OciRegistry
) -> None:
    store.digests = digests
    stored = client.put_manifest(f"{host}/a", "one", manifest(media_type), media_type)
    assert client.digest(f"{host}/a", "one") == client.digest(f"{host}/a", stored) == stored
    assert client.manifest(f"{host}/a", "one").media_type == media_type
    asked = [sent["Accept"] for call, sent in zip(store.calls, store.headers, strict=True) if "PUT" not in call]
    assert {*asked} == {", ".join(TYPES)}


def test_a_tag_may_have_capitals(host: str, client: OciRegistry) -> None:
    stored = client.put_manifest(f"{host}/a", "one", manifest(), IMAGE)
    client.tag(f"{host}/a", stored, "V1.0-RC_2")
    assert client.digest(f"{host}/a", "V1.0-RC_2") == stored


def test_the_body_decides_where_the_headers_promise_another_digest(
    store: Store, host: str, client: OciRegistry
) -> None:
    stored = client.put_manifest(f"{host}/a", "one", manifest(), IMAGE)
    store.lie = OTHER
    with pytest.raises(UpstreamRefused, match="sent a manifest other than") as caught:
        client.digest(f"{host}/a", stored)
    assert "alters the content; do not publish" in caught.value.hint


def test_a_manifest_that_is_absent_is_refused_by_name(host: str, client: OciRegistry) -> None:
    with pytest.raises(UpstreamRefused, match=f"refused GET of {host}/a") as caught:
        client.manifest(f"{host}/a", "one")
    assert caught.value.why == "HTTP 404"
    client.put_manifest(f"{host}/a", "one", b"<html>", "text/html")
    with pytest.raises(UpstreamRefused, match=f"no manifest came from {host}/a for one"):
        client.manifest(f"{host}/a", "one")


@pytest.mark.parametrize("status", [404, 405])
def test_a_registry_that_cannot_cancel_an_upload_can_be_pushed_to(
    status: int, store: Store, host: str, client: OciRegistry
) -> None:
    store.trouble = lambda method, _path: (status, {}) if method == "DELETE" else None
    client.check_push(f"{host}/a")
    assert [call.partition(" ")[0] for call in store.calls] == ["POST", "DELETE"]


def test_an_upload_at_no_address_is_refused(store: Store, host: str, client: OciRegistry) -> None:
    store.trouble = lambda _method, _path: (202, {})
    with pytest.raises(UpstreamRefused, match="at no address") as caught:
        client.check_push(f"{host}/a")
    assert caught.value.why == "no Location header"


@pytest.mark.parametrize("bearer", [False, True])
def test_what_was_to_be_sent_is_sent_again_with_the_login(
    bearer: bool, store: Store, host: str, client: OciRegistry
) -> None:
    store.login, store.bearer = ("user", "right"), bearer
    stored = client.put_manifest(f"{host}/a", "one", manifest(), IMAGE)
    assert store.manifests[stored] == manifest()
    puts = [call for call in store.calls if call.startswith("PUT")]
    assert len(puts) == 2, "one without the login, one with it"


def test_a_registry_without_a_login_is_denied_not_asked_twice(store: Store, host: str) -> None:
    store.login = ("user", "right")
    stranger = OciRegistry(backoff=ONCE, known=lambda _host: None)
    with pytest.raises(RegistryDenied, match=f"access denied to {host}/a") as caught:
        stranger.manifest(f"{host}/a", "one")
    assert caught.value.why == "HTTP 401"
    assert "docker login" in caught.value.hint
    store.challenge = 'Digest realm="r"'
    with pytest.raises(RegistryDenied):
        stranger.manifest(f"{host}/a", "one")
    assert len(store.calls) == 2


def test_a_token_is_for_one_repository_and_kept_secret(store: Store, host: str, client: OciRegistry) -> None:
    store.login, store.bearer, store.token = ("user", "right"), True, b'{"access_token": "granted"}'
    for name in ("a/b", "c", "a/b"):
        client.put_manifest(f"{host}/{name}", "one", manifest(), IMAGE)
    calls = [call.partition("?")[0] for call in store.calls]
    first, again = [f"PUT /v2/{name}/manifests/one" for name in ("a/b", "c")]
    assert calls == [first, "GET /token", first, again, "GET /token", again, first]
    assert "Authorization" not in store.headers[3], "the token of a/b is not shown for c"
    assert "granted" not in redact("it was granted")


@pytest.mark.parametrize(
    ("challenge", "calls"),
    [('Bearer service="s"', 1), ('Bearer realm="/token",service="s"', 3), ('Bearer realm="token"', 1)],
)
def test_a_token_server_may_be_named_by_its_path(
    challenge: str, calls: int, store: Store, host: str, client: OciRegistry
) -> None:
    store.login, store.bearer, store.challenge = ("user", "right"), True, challenge
    if calls == 1:
        with pytest.raises(RegistryDenied):
            client.put_manifest(f"{host}/a", "one", manifest(), IMAGE)
    else:
        client.put_manifest(f"{host}/a", "one", manifest(), IMAGE)
    assert len(store.calls) == calls


@pytest.mark.parametrize("token", [b'{"token": 5}', b'{"token": "a\\nb"}', b"{}"])
def test_what_cannot_be_sent_is_no_token(token: bytes, store: Store, host: str, client: OciRegistry) -> None:
    store.login, store.bearer, store.token = ("user", "right"), True, token
    with pytest.raises(RegistryDenied):
        client.manifest(f"{host}/a", "one")


def test_a_token_server_that_fails_is_said_to_fail(store: Store, host: str, client: OciRegistry) -> None:
    store.login, store.bearer, store.token_status = ("user", "right"), True, 503
    with pytest.raises(RegistryUnavailable, match=f"the registry at {host} is failing") as caught:
        client.manifest(f"{host}/a", "one")
    assert caught.value.why == "HTTP 503"


def test_a_token_server_with_https_is_asked(store: Store, host: str, client: OciRegistry) -> None:
    store.login, store.bearer = ("user", "right"), True
    store.challenge = 'Bearer realm="https://127.0.0.1:9/token"'
    with pytest.raises(RegistryUnavailable, match="no registry answers") as caught:
        client.manifest(f"{host}/a", "one")
    assert caught.value.why.startswith("ConnectError: ")


def test_credentials_that_were_withheld_are_named_after_the_refusal(
    store: Store, host: str, client: OciRegistry
) -> None:
    store.login, store.bearer = ("user", "right"), True
    with standing_in(Store(login=("user", "right"))) as elsewhere:
        store.challenge = f'Bearer realm="http://{elsewhere}/token"'
        with pytest.raises(RegistryDenied) as caught:
            client.manifest(f"{host}/a", "one")
    assert caught.value.why == (
        f"HTTP 401; the credentials were not sent to http://{elsewhere}, which the registry names for tokens"
    )


def test_an_address_that_leads_in_a_circle_is_named(store: Store, host: str, client: OciRegistry) -> None:
    store.trouble = lambda _method, path: (307, {"Location": path})
    with pytest.raises(UpstreamRefused, match=f"the registry at {host} names no usable address") as caught:
        client.manifest(f"{host}/a", "one")
    assert "redirects" in caught.value.why


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"config": {"digest": OTHER}}, "no digest and size"),
        ({"config": {"digest": OTHER, "size": True}}, "no digest and size"),
        ({"config": {"size": 7}}, "no digest and size"),
        ({"config": [PART]}, "not what those of a manifest are"),
        ({"layers": PART}, "not what those of a manifest are"),
        ({"manifests": PART}, "not what those of a manifest are"),
        ({"manifests": [{"digest": OTHER}]}, "no digest and size"),
        ({"layers": [{"size": 7}]}, "no digest and size"),
        ({"mediaType": "text/plain"}, "it calls itself 'text/plain'"),
    ],
)
@pytest.mark.parametrize("stated", [True, False])
def test_a_manifest_whose_parts_have_no_digest_and_size_is_refused(
    parts: dict[str, object], why: str, stated: bool, store: Store, host: str, client: OciRegistry
) -> None:
    stored = client.put_manifest(f"{host}/a", "one", manifest(**parts), IMAGE)
    store.types[stored] = IMAGE if stated else ""
    with pytest.raises(UpstreamRefused, match="no manifest came from") as caught:
        client.manifest(f"{host}/a", "one")
    end = f", and is sent as {IMAGE}" if stated and "itself" in why else ""
    assert caught.value.why.endswith(why + end)


@pytest.mark.parametrize("parts", [{}, {"config": {**PART, "size": 0}}, {"layers": [PART], "config": PART}])
def test_a_manifest_with_whole_parts_is_read(parts: dict[str, object], host: str, client: OciRegistry) -> None:
    stored = client.put_manifest(f"{host}/a", "one", manifest(**parts), IMAGE)
    assert client.manifest(f"{host}/a", "one").digest == stored


def test_a_registry_elsewhere_is_asked_by_https_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def once() -> None:
            connection, _ = proxy.accept()
            with connection:
                said.append(connection.recv(1 << 12))
                connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=once)
        thread.start()
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(RegistryUnavailable):
            OciRegistry(backoff=ONCE).digest("registry.invalid/a", "one")
        thread.join(10)
    assert said[0].startswith(b"CONNECT registry.invalid:443 ")
