"""Copying an image between registries: what is sent, and what goes wrong on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from flagrelease.errors import FlagreleaseError, RegistryDenied, RegistryUnavailable, UpstreamRefused
from flagrelease.ports import registry as port
from flagrelease.ports.registry import OciRegistry, referrers, transfer
from flagrelease.ports.registry.referrers import Artifact, File
from flagrelease.ports.registry.transfer import Transfer
from flagrelease.ports.retry import Backoff
from support.contexts import SleeplessClock
from support.pushed import LAYER, push
from support.registry_stand_in import Store, standing_in

NO_PATIENCE = Backoff(budget=0.0)


@dataclass
class Way:
    """From one stand-in to another; the layer takes three requests."""

    source: Store = field(default_factory=Store)
    target: Store = field(default_factory=Store)
    hosts: tuple[str, str] = ("", "")
    clock: SleeplessClock = field(default_factory=SleeplessClock)
    sent: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.own = OciRegistry(clock=self.clock)

    def transfer(self, backoff: Backoff = NO_PATIENCE) -> Transfer:
        return Transfer(
            source=self.own,
            source_repository=f"{self.hosts[0]}/a",
            target=OciRegistry(clock=self.clock, backoff=backoff),
            target_repository=f"{self.hosts[1]}/b",
            clock=self.clock,
            moved=self.sent.append,
            backoff=backoff,
        )


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    for module in (port, transfer):
        monkeypatch.setattr(module, "PIECE", 100_000)
    made = Way()
    with standing_in(made.source) as first, standing_in(made.target) as second:
        made.hosts = first, second
        yield made


def test_what_the_target_has_is_not_sent_again(way: Way) -> None:
    digest = push(way.own, f"{way.hosts[0]}/a")
    artifact = Artifact(kind="application/x", files=(File(name="f", media_type="text/plain", data=b"text"),))
    attached = referrers.attach(way.own, f"{way.hosts[0]}/a", digest, artifact)
    way.transfer().image(digest)
    assert sum(way.sent) == sum(map(len, way.target.blobs.values()))
    assert len([call for call in way.target.calls if call.startswith("PATCH")]) == 3
    way.transfer().attached(digest)
    assert way.target.manifests[attached] == way.source.manifests[attached]
    assert [one.digest for one in referrers.attached(way.own, f"{way.hosts[1]}/b", digest)] == [attached]
    sent, calls = list(way.sent), len(way.target.calls)
    way.transfer().image(digest)
    way.transfer().attached(digest)
    assert way.sent == sent
    assert not [call for call in way.target.calls[calls:] if not call.startswith(("HEAD", "GET"))]


def test_a_blob_that_the_target_has_lost_is_sent_again(way: Way) -> None:
    digest = push(way.own, f"{way.hosts[0]}/a")
    way.transfer().image(digest)
    layer = next(name for name, data in way.target.blobs.items() if data == LAYER)
    del way.target.blobs[layer]
    puts = [call for call in way.target.calls if "/manifests/" in call and call.startswith("PUT")]
    way.transfer().image(digest)
    assert way.target.blobs[layer] == LAYER
    assert [call for call in way.target.calls if "/manifests/" in call and call.startswith("PUT")] == puts


def test_a_blob_is_taken_over_within_a_registry(way: Way) -> None:
    way.hosts = (way.hosts[0], way.hosts[0])
    digest = push(way.own, f"{way.hosts[0]}/a")
    way.source.mounts = True
    way.source.trouble = lambda method, path: (404, {}) if method == "HEAD" and path.startswith("/v2/b/") else None
    way.source.calls.clear()
    way.transfer().image(digest)
    assert not way.sent
    assert not [call for call in way.source.calls if call.startswith(("PATCH", "GET /v2/a/blobs"))]


@pytest.mark.parametrize(
    ("answer", "kind", "words", "hint"),
    [
        ((401, {}), RegistryDenied, "HTTP 401", "docker login"),
        ((403, {}), RegistryDenied, "HTTP 403, TROUBLE: as asked", "docker login"),
        ((404, {}), UpstreamRefused, "HTTP 404", "want a project to be created"),
        ((413, {}), UpstreamRefused, "HTTP 413", "a proxy before the registry limits the size of requests"),
        ((429, {"Retry-After": "90"}), RegistryUnavailable, "asked to wait 90 s", "run again"),
        ((500, {}), RegistryUnavailable, "HTTP 500", "run again"),
        ((0, {}), RegistryUnavailable, "", ""),
    ],
)
def test_the_upload_of_a_piece_fails(
    way: Way, answer: tuple[int, dict[str, str]], kind: type[FlagreleaseError], words: str, hint: str
) -> None:
    digest = push(way.own, f"{way.hosts[0]}/a")
    way.target.trouble = lambda method, _path: answer if method == "PATCH" else None
    with pytest.raises(kind) as caught:
        way.transfer().image(digest)
    assert words in caught.value.why
    assert hint in caught.value.hint
    assert not way.target.manifests
    way.target.trouble = lambda _method, _path: None
    way.transfer().image(digest)
    assert LAYER in way.target.blobs.values()


def test_a_connection_that_drops_mid_blob_begins_that_blob_again(way: Way) -> None:
    digest = push(way.own, f"{way.hosts[0]}/a")
    drops = iter([False, True, False])

    def trouble(method: str, _path: str) -> tuple[int, dict[str, str]] | None:
        if method == "POST":
            way.target.uploads.clear()
        return (0, {}) if method == "PATCH" and next(drops, False) else None

    way.target.trouble = trouble
    way.transfer(Backoff(budget=60.0)).image(digest)
    assert LAYER in way.target.blobs.values()
    assert len(way.clock.slept) == 1


def test_uploads_at_another_host_do_not_get_the_credentials(way: Way) -> None:
    digest = push(way.own, f"{way.hosts[0]}/a")
    elsewhere = Store(login=("robot$x", "p"))
    with standing_in(elsewhere) as third:
        way.target.elsewhere = f"http://{third}"
        with pytest.raises(RegistryDenied) as caught:
            way.transfer().image(digest)
    assert f"from http://{third}, which the registry names for uploads" in caught.value.why
    assert "external URL" in caught.value.hint
    assert elsewhere.calls
    assert not elsewhere.authorizations


def test_a_blob_that_is_not_its_digest_is_not_published(way: Way) -> None:
    digest = push(way.own, f"{way.hosts[0]}/a")
    name = next(name for name, data in way.source.blobs.items() if data == LAYER)
    way.source.blobs[name] = LAYER.replace(b"layer", b"other")
    with pytest.raises(UpstreamRefused, match="sent a blob other than"):
        way.transfer().image(digest)
    assert name not in way.target.blobs
    assert not way.target.manifests
