"""The registry client against a registry that misbehaves."""

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flagrelease.errors import ConfigError, RegistryDenied, RegistryUnavailable, UpstreamRefused
from flagrelease.ports.credentials import TOKEN_SERVER, Credentials, Logins, docker_login
from flagrelease.ports.docker import config_file
from flagrelease.ports.registry import MANIFEST_TYPES, OciRegistry
from flagrelease.ports.registry.answers import unavailable
from flagrelease.ports.retry import Backoff
from flagrelease.redact import redact
from flagrelease.run.relock import _base
from support.clocks import SimulatedClock
from support.registry_stand_in import Store, standing_in

BODY = b'{"schemaVersion":2}'


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture
def client(clock: SimulatedClock) -> OciRegistry:
    backoff = Backoff(first=0.5, most=15.0, budget=60.0)
    return OciRegistry(clock=clock, backoff=backoff, known=lambda _host: Credentials("user", "right"))


def failing(store: Store, times: int, status: int, **headers: str) -> None:
    left = [times]

    def trouble(_method: str, _path: str) -> tuple[int, dict[str, str]] | None:
        left[0] -= 1
        return (status, headers) if left[0] >= 0 else None

    store.trouble = trouble


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408, 0])
def test_transient_failures_are_retried(
    status: int, store: Store, host: str, client: OciRegistry, clock: SimulatedClock
) -> None:
    failing(store, 3, status)
    assert client.digest(f"{host}/a/b", "tag") is None
    assert len(clock.slept) == 3
    assert clock.slept == sorted(clock.slept), "pauses grow"


def test_retry_after_is_heeded(store: Store, host: str, client: OciRegistry, clock: SimulatedClock) -> None:
    failing(store, 1, 429, **{"Retry-After": "7"})
    client.digest(f"{host}/a", "tag")
    assert clock.slept == [7.0]


def test_the_budget_ends_the_retries(store: Store, host: str, client: OciRegistry, clock: SimulatedClock) -> None:
    failing(store, 10_000, 503)
    with pytest.raises(RegistryUnavailable, match="failing") as caught:
        client.digest(f"{host}/a", "tag")
    assert caught.value.why == "HTTP 503"
    assert sum(clock.slept) <= 60


def test_a_wait_beyond_the_budget_is_not_begun(
    store: Store, host: str, client: OciRegistry, clock: SimulatedClock
) -> None:
    failing(store, 1, 429, **{"Retry-After": "3600"})
    with pytest.raises(RegistryUnavailable) as caught:
        client.digest(f"{host}/a", "tag")
    assert clock.slept == []
    assert caught.value.why == "HTTP 429; asked to wait 3600 s"


def test_nothing_listens(client: OciRegistry) -> None:
    with pytest.raises(RegistryUnavailable, match=r"no registry answers at 127\.0\.0\.1:9") as caught:
        client.check_push("127.0.0.1:9/a")
    assert caught.value.exit_code == 6
    assert "make setup" in caught.value.hint
    elsewhere = unavailable("registry.example/a", None, "no such host").hint
    assert elsewhere == "check the name, and that this machine reaches it", "nobody starts that one here"
    assert "--registry" not in caught.value.hint + elsewhere, "`verify` has no such option"


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_final(status: int, store: Store, host: str, client: OciRegistry, clock: SimulatedClock) -> None:
    store.trouble = lambda _method, _path: (status, {})
    with pytest.raises(RegistryDenied) as caught:
        client.check_push(f"{host}/a")
    assert caught.value.exit_code == 7
    assert "TROUBLE: as asked" in caught.value.why
    assert clock.slept == []


@pytest.mark.parametrize("bearer", [False, True])
def test_credentials_are_used_when_asked_for(bearer: bool, store: Store, host: str, client: OciRegistry) -> None:
    store.login, store.bearer = ("user", "right"), bearer
    client.check_push(f"{host}/a")
    assert client.put_manifest(f"{host}/a", "one", BODY, MANIFEST_TYPES[0]) in store.manifests
    assert sum(call.startswith("GET /token") for call in store.calls) == (1 if bearer else 0), "a token is kept"


@pytest.mark.parametrize("bearer", [False, True])
def test_wrong_credentials_are_a_refusal(bearer: bool, store: Store, host: str) -> None:
    store.login, store.bearer = ("user", "right"), bearer
    wrong = OciRegistry(known=lambda _host: Credentials("user", "hunter2-secret"))
    with pytest.raises(RegistryDenied) as caught:
        wrong.check_push(f"{host}/a")
    assert "hunter2" not in caught.value.line() + repr(Credentials("user", "hunter2-secret"))


def test_a_tag_is_set_once_and_never_moved(store: Store, host: str, client: OciRegistry) -> None:
    where = f"{host}/a"
    first = client.put_manifest(where, "one", BODY, MANIFEST_TYPES[0])
    other = client.put_manifest(where, "two", BODY + b" ", MANIFEST_TYPES[0])
    client.tag(where, first, "v1")
    client.tag(where, first, "v1")
    with pytest.raises(UpstreamRefused, match="v1 is taken") as caught:
        client.tag(where, other, "v1")
    assert first in caught.value.why
    assert client.digest(where, "v1") == first
    client.tag(where, first, "latest")
    client.tag(where, other, "latest")
    assert client.digest(where, "latest") == other


@pytest.mark.parametrize("tag", ["", "-x", "a b", "a/b", "x" * 129, "×"])
def test_a_bad_tag_is_refused_before_anything_is_sent(tag: str, store: Store, host: str, client: OciRegistry) -> None:
    with pytest.raises(UpstreamRefused, match="is not a valid tag"):
        client.tag(f"{host}/a", "sha256:" + "0" * 64, tag)
    assert store.calls == []


def test_another_manifest_than_asked_for_is_refused(store: Store, host: str, client: OciRegistry) -> None:
    digest = client.put_manifest(f"{host}/a", "one", BODY, MANIFEST_TYPES[0])
    store.manifests[digest] = BODY + b" "
    with pytest.raises(UpstreamRefused, match="sent a manifest other than"):
        client.manifest(f"{host}/a", digest)


def test_a_registry_that_confirms_another_digest_is_refused(store: Store, host: str, client: OciRegistry) -> None:
    store.lie = "sha256:" + "f" * 64
    with pytest.raises(UpstreamRefused, match="stored a manifest other than"):
        client.put_manifest(f"{host}/a", "one", BODY, MANIFEST_TYPES[0])


def test_a_proxy_of_the_environment_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, host: str, client: OciRegistry
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    client.check_push(f"{host}/a")


def test_credentials_come_from_the_environment_or_from_docker_login(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("docker")
    (folder / "config.json").write_text(json.dumps({"auths": {"reg.example:5": {"auth": "dTpw"}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    monkeypatch.delenv("FLAGRELEASE_REGISTRY_USER", raising=False)
    credentials = Logins(own="reg.example:5")
    assert credentials("reg.example:5") == Credentials("u", "p")
    assert credentials("other.example") is None
    monkeypatch.setenv("FLAGRELEASE_REGISTRY_USER", "me")
    monkeypatch.setenv("FLAGRELEASE_REGISTRY_PASSWORD", " mine\n")
    assert credentials("reg.example:5") == credentials("REG.example:5") == Credentials("me", "mine")


@pytest.mark.parametrize("host", ["other.example", "reg.example", "reg.example:50", "reg.example:5@evil.example"])
def test_the_environments_credentials_are_for_one_registry(
    host: str, monkeypatch: pytest.MonkeyPatch, no_docker_login: None
) -> None:
    monkeypatch.setenv("FLAGRELEASE_REGISTRY_USER", "me")
    monkeypatch.setenv("FLAGRELEASE_REGISTRY_PASSWORD", "mine")
    assert Logins(own="reg.example:5")(host) is None
    assert Logins()(host) is None


def test_a_credential_that_cannot_be_sent_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, no_docker_login: None
) -> None:
    monkeypatch.setenv("FLAGRELEASE_REGISTRY_USER", "me")
    monkeypatch.setenv("FLAGRELEASE_REGISTRY_PASSWORD", "first-half\nsecond-half")
    with pytest.raises(ConfigError, match="FLAGRELEASE_REGISTRY_PASSWORD") as caught:
        Logins(own="r.example")("r.example")
    assert "half" not in caught.value.line() + caught.value.hint


@pytest.mark.parametrize(
    "config",
    [
        {"credsStore": "not-installed"},
        {"credHelpers": {"reg.example": "not-installed"}},
        {"auths": {"reg.example": {"auth": "no base64"}}},
        {"auths": {"reg.example": {"auth": "bm9jb2xvbg=="}}},
        {"auths": {"reg.example": "x"}},
        {"auths": {"reg.example": {"identitytoken": "x"}}},
    ],
)
def test_a_docker_configuration_without_a_usable_login_is_no_login(
    config: object, no_docker_login: Path, recwarn: pytest.WarningsRecorder
) -> None:
    (no_docker_login / "config.json").write_text(json.dumps(config))
    assert Logins()("reg.example") is None
    warned = [one for one in recwarn.list if issubclass(one.category, UserWarning)]
    assert not warned, "most registries need no login"


@pytest.mark.parametrize("damaged", [{"auth": "!!notbase64"}, {"auth": "dXNlcg=="}, {"auth": 7}, "x"])
def test_a_damaged_login_of_another_host_spoils_none(damaged: object, no_docker_login: Path) -> None:
    auths = {"a.example": damaged, "reg.example": {"auth": "dTpw"}, "z.example": damaged}
    (no_docker_login / "config.json").write_text(json.dumps({"auths": auths, "credHelpers": {"reg.example": "absent"}}))
    assert Logins()("reg.example") == Credentials("u", "p")
    login, fault = docker_login("a.example")
    assert login is None
    assert "a.example is not a login" in fault


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_docker_configuration_that_cannot_be_read_is_named(content: str, no_docker_login: Path) -> None:
    (no_docker_login / "config.json").write_text(content)
    assert Logins()("reg.example") is None
    ignored = config_file.read().ignored()
    assert ignored is not None
    assert str(no_docker_login / "config.json") in ignored.what
    (no_docker_login / "config.json").write_text("{}")
    assert config_file.read().ignored() is None


def test_logins_of_the_oldest_form_are_read(no_docker_login: Path) -> None:
    (no_docker_login / "config.json").write_text(json.dumps({"reg.example": {"auth": "dTpw"}}))
    assert Logins()("reg.example") == Credentials("u", "p")


def test_a_credential_helper_is_asked_and_what_it_says_is_redacted(
    monkeypatch: pytest.MonkeyPatch, no_docker_login: Path
) -> None:
    helper = no_docker_login / "docker-credential-mine"
    helper.write_text('#!/bin/sh\necho \'{"Username": "me", "Secret": "helpers-own-7"}\'\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(no_docker_login), prepend=os.pathsep)
    (no_docker_login / "config.json").write_text(json.dumps({"credHelpers": {"reg.example": "mine"}}))
    assert Logins()("reg.example") == Credentials("me", "helpers-own-7")
    basic = base64.b64encode(b"me:helpers-own-7").decode()
    for text in ("helpers-own-7", basic):
        assert text not in redact(f"it was {text}")


@pytest.fixture
def no_docker_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, Store]]:
    """Another registry, on another port, and so another origin."""
    store = Store()
    with standing_in(store) as place:
        yield f"http://{place}", store


def test_an_upload_that_is_opened_elsewhere_gets_no_credentials(
    store: Store, host: str, client: OciRegistry, elsewhere: tuple[str, Store]
) -> None:
    store.login, store.elsewhere = ("user", "right"), elsewhere[0]
    client.check_push(f"{host}/a")
    assert store.authorizations
    assert not elsewhere[1].authorizations


def test_a_redirect_elsewhere_gets_no_credentials(
    store: Store, host: str, client: OciRegistry, elsewhere: tuple[str, Store]
) -> None:
    store.login = elsewhere[1].login = ("user", "right")
    client.check_push(f"{host}/a")
    store.trouble = lambda _method, path: (307, {"Location": f"{elsewhere[0]}{path}"})
    with pytest.raises(RegistryDenied):
        client.manifest(f"{host}/a", "one")
    assert elsewhere[1].calls == ["GET /v2/a/manifests/one"]
    assert not elsewhere[1].authorizations


def test_a_token_server_elsewhere_gets_credentials_only_if_the_operator_named_it(
    store: Store, host: str, client: OciRegistry, elsewhere: tuple[str, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.login, store.bearer = ("user", "right"), True
    store.challenge = f'Bearer realm="{elsewhere[0]}/token",service="s"'
    elsewhere[1].login = store.login
    with pytest.raises(RegistryDenied) as caught:
        client.check_push(f"{host}/a")
    assert elsewhere[1].calls == ["GET /token?service=s"], "it is asked anonymously, as for public images"
    assert not elsewhere[1].authorizations
    assert caught.value.hint.endswith(f"set {TOKEN_SERVER}={elsewhere[0]}")
    monkeypatch.setenv(TOKEN_SERVER, elsewhere[0])
    client.check_push(f"{host}/a")
    assert elsewhere[1].authorizations


@pytest.mark.parametrize(
    "realm", ["/nothing", "http://203.0.113.1/token", "ftp://x/token", "http://[/token", "no token server"]
)
def test_no_token_server_is_asked_in_the_clear_or_at_no_address(
    realm: str, store: Store, host: str, client: OciRegistry, clock: SimulatedClock
) -> None:
    store.login, store.bearer = ("user", "right"), True
    store.challenge = f'Bearer realm="{realm}"'
    with pytest.raises((RegistryDenied, UpstreamRefused)):
        client.check_push(f"{host}/a")
    assert not clock.slept


@pytest.mark.parametrize("first", [True, False])
def test_of_several_challenges_bearer_is_answered(first: bool, store: Store, host: str, client: OciRegistry) -> None:
    store.login, store.bearer = ("user", "right"), True
    both = [f'Bearer realm = "http://{host}/token" , scope="repository:a:pull,push"', 'Basic realm="Registry, \\"r\\""']
    store.challenge = ", ".join(both if first else reversed(both))
    client.check_push(f"{host}/a")
    assert "GET /token?scope=repository%3Aa%3Apull%2Cpush" in store.calls


@pytest.mark.parametrize("token", [b"<html>", b"[]", b"[" * 5000, b'"text"'])
def test_a_token_server_that_sends_no_token_is_refused(
    token: bytes, store: Store, host: str, client: OciRegistry
) -> None:
    store.login, store.bearer, store.token = ("user", "right"), True, token
    with pytest.raises(UpstreamRefused, match="sent no token") as caught:
        client.check_push(f"{host}/a")
    assert caught.value.exit_code == 7


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_token_server_is_asked_again(
    status: int, store: Store, host: str, client: OciRegistry, clock: SimulatedClock
) -> None:
    store.login, store.bearer = ("user", "right"), True
    store.token_answers = [(status, {"Retry-After": "20"})]
    client.check_push(f"{host}/a")
    assert clock.slept == [20.0]


@pytest.mark.parametrize("at", ["registry", "token server"])
def test_a_circle_of_redirects_is_refused(at: str, store: Store, host: str, client: OciRegistry) -> None:
    store.login, store.bearer = ("user", "right"), True
    if at == "registry":
        store.trouble = lambda _method, path: (307, {"Location": path})
    else:
        store.token_answers = [(302, {"Location": "/token"})] * 100
    with pytest.raises(UpstreamRefused, match="names no usable address") as caught:
        client.manifest(f"{host}/a", "one")
    assert "edirect" in caught.value.why
    assert len(store.calls) < 50


def test_a_token_that_expires_is_replaced_once(
    store: Store, host: str, client: OciRegistry, clock: SimulatedClock
) -> None:
    store.login, store.bearer = ("user", "right"), True
    client.check_push(f"{host}/a")
    store.granted, store.token = "second", b'{"token": "second"}'
    client.check_push(f"{host}/a")
    assert store.authorizations >= {"Bearer granted", "Bearer second"}
    asked = [call for call in store.calls if call.startswith("GET /token")]
    assert len(asked) == 2
    store.granted = "third"  # the one that the server goes on granting is not accepted
    with pytest.raises(RegistryDenied):
        client.check_push(f"{host}/a")
    assert clock.slept == []


@pytest.mark.parametrize("head", [200, 405])
def test_without_the_digest_header_the_manifest_itself_is_hashed(
    head: int, store: Store, host: str, client: OciRegistry
) -> None:
    store.digests = False
    store.trouble = lambda method, _path: (head, {}) if method == "HEAD" and head != 200 else None
    digest = client.put_manifest(f"{host}/a", "one", WHOLE, IMAGE)
    assert digest == "sha256:" + hashlib.sha256(WHOLE).hexdigest()
    assert client.digest(f"{host}/a", "one") == digest
    assert client.manifest(f"{host}/a", "one").digest == digest
    store.manifests[digest] = WHOLE + b" "
    store.types["sha256:" + hashlib.sha256(WHOLE + b" ").hexdigest()] = IMAGE
    with pytest.raises(UpstreamRefused, match="sent a manifest other than"):
        client.digest(f"{host}/a", digest)


OTHER = "sha256:" + "f" * 64
IMAGE, INDEX = MANIFEST_TYPES[:2]
PART = {"mediaType": "x", "digest": OTHER, "size": 7}
WHOLE = json.dumps({"schemaVersion": 2, "mediaType": IMAGE, "config": PART, "layers": [PART]}).encode()


@pytest.mark.parametrize("media_type", [IMAGE, f"{IMAGE}; charset=utf-8", ""])
def test_a_manifest_has_the_type_that_it_states(media_type: str, store: Store, host: str, client: OciRegistry) -> None:
    digest = client.put_manifest(f"{host}/a", "one", WHOLE, IMAGE)
    store.types[digest] = media_type
    manifest = client.manifest(f"{host}/a", "one")
    assert (manifest.digest, manifest.media_type, client.digest(f"{host}/a", "one")) == (digest, IMAGE, digest)


@pytest.mark.parametrize(
    ("body", "media_type", "why"),
    [
        (b"<!DOCTYPE html><html>Sign in</html>", "text/html; charset=utf-8", "it is text/html"),
        (b"<html>Sign in</html>", IMAGE, "not JSON"),
        (b"<html>Sign in</html>", "", "not JSON"),
        (b'{"token": "x"}', "application/json", "it is application/json"),
        (b'{"token": "x"}', IMAGE, "schemaVersion 2"),
        (b"[]", IMAGE, "schemaVersion 2"),
        (b"[" * 100_000, IMAGE, "not JSON"),
        (b'{"schemaVersion": 1}', IMAGE, "schemaVersion 2"),
        (b'{"schemaVersion": 2}', "", "it calls itself ''"),
        (WHOLE, INDEX, "and is sent as"),
        (WHOLE.replace(b'"size": 7', b'"size": -1'), IMAGE, "no digest and size"),
        (WHOLE.replace(b'"layers": [', b'"layers": [3, '), IMAGE, "no digest and size"),
        (WHOLE.replace(b'"layers"', b'"manifests": 3, "layers"'), IMAGE, "not what those of a manifest are"),
        (b" " * (5 << 20), IMAGE, "bytes"),
    ],
)
def test_an_answer_that_is_no_manifest_pins_nothing(
    body: bytes, media_type: str, why: str, store: Store, host: str, client: OciRegistry
) -> None:
    digest = client.put_manifest(f"{host}/a", "one", body, media_type)
    for ask in (client.digest, client.manifest):
        if ask == client.digest and media_type in MANIFEST_TYPES:
            continue  # HEAD shows no body; `lock` reads it
        with pytest.raises(UpstreamRefused, match="no manifest came from") as caught:
            ask(f"{host}/a", "one")
        assert why in caught.value.why
        assert "HTTPS_PROXY" in caught.value.hint
    with pytest.raises(UpstreamRefused, match="no manifest came from"):
        _base(f"{host}/a:one", client)
    assert digest in store.manifests


def test_a_login_page_that_stands_for_everything_is_refused(store: Store, host: str, client: OciRegistry) -> None:
    store.trouble = lambda _method, _path: (200, {"Content-Type": "text/html", "Location": "/login"})
    calls: list[Callable[[], object]] = [
        lambda: client.digest(f"{host}/a", "one"),
        lambda: client.manifest(f"{host}/a", OTHER),
        lambda: client.put_manifest(f"{host}/a", "one", WHOLE, IMAGE),
        lambda: client.tag(f"{host}/a", OTHER, "one"),
        lambda: client.check_push(f"{host}/a"),
        lambda: _base(f"{host}/a:one", client),
    ]
    for call in calls:
        with pytest.raises(UpstreamRefused) as caught:
            call()
        assert "text/html" in caught.value.why
        assert "login page" in caught.value.hint


@pytest.mark.parametrize("lie", [OTHER, "sha256:short", "<html>"])
def test_a_digest_that_the_body_does_not_have_is_refused(
    lie: str, store: Store, host: str, client: OciRegistry
) -> None:
    digest = client.put_manifest(f"{host}/a", "one", WHOLE, IMAGE)
    assert client.digest(f"{host}/a", digest) == digest
    store.lie = lie
    for reference in ("one", digest):
        with pytest.raises(UpstreamRefused, match="sent a manifest other than"):
            client.manifest(f"{host}/a", reference)
    with pytest.raises(UpstreamRefused, match="sent a manifest other than"):
        client.digest(f"{host}/a", digest)
    with pytest.raises(UpstreamRefused):
        _base(f"{host}/a:one", client)
