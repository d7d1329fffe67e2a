"""The registry client against a registry that misbehaves."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from flagrelease.errors import RegistryDenied, RegistryUnavailable, UpstreamRefused
from flagrelease.ports.credentials import Credentials, credentials
from flagrelease.ports.registry import MANIFEST_TYPES, OciRegistry
from flagrelease.ports.retry import Backoff
from support.registry_stand_in import Store, standing_in

BODY = b'{"schemaVersion":2}'


class Patient:
    """A clock whose sleeping costs no time."""

    def __init__(self) -> None:
        self.at, self.slept = 0.0, list[float]()

    def monotonic(self) -> float:
        return self.at

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        self.at += seconds
        self.slept.append(seconds)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def host(store: Store) -> Iterator[str]:
    with standing_in(store) as place:
        yield place


@pytest.fixture
def clock() -> Patient:
    return Patient()


@pytest.fixture
def client(clock: Patient) -> OciRegistry:
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
    status: int, store: Store, host: str, client: OciRegistry, clock: Patient
) -> None:
    failing(store, 3, status)
    assert client.digest(f"{host}/a/b", "tag") is None
    assert len(clock.slept) == 3
    assert clock.slept == sorted(clock.slept), "pauses grow"


def test_retry_after_is_heeded(store: Store, host: str, client: OciRegistry, clock: Patient) -> None:
    failing(store, 1, 429, **{"Retry-After": "7"})
    client.digest(f"{host}/a", "tag")
    assert clock.slept == [7.0]


def test_the_budget_ends_the_retries(store: Store, host: str, client: OciRegistry, clock: Patient) -> None:
    failing(store, 10_000, 503)
    with pytest.raises(RegistryUnavailable, match="failing") as caught:
        client.digest(f"{host}/a", "tag")
    assert caught.value.why == "HTTP 503"
    assert sum(clock.slept) <= 60


def test_a_wait_beyond_the_budget_is_not_begun(store: Store, host: str, client: OciRegistry, clock: Patient) -> None:
    failing(store, 1, 429, **{"Retry-After": "3600"})
    with pytest.raises(RegistryUnavailable):
        client.digest(f"{host}/a", "tag")
    assert clock.slept == []


def test_nothing_listens(client: OciRegistry) -> None:
    with pytest.raises(RegistryUnavailable, match=r"no registry answers at 127\.0\.0\.1:9") as caught:
        client.check_push("127.0.0.1:9/a")
    assert caught.value.exit_code == 6
    assert "make setup" in caught.value.hint


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_final(status: int, store: Store, host: str, client: OciRegistry, clock: Patient) -> None:
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
    assert credentials("reg.example:5") == Credentials("u", "p")
    assert credentials("other.example") is None
    monkeypatch.setenv("FLAGRELEASE_REGISTRY_USER", "me")
    monkeypatch.setenv("FLAGRELEASE_REGISTRY_PASSWORD", "mine")
    assert credentials("reg.example:5") == Credentials("me", "mine")
