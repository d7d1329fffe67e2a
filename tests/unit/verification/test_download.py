"""A release that is taken from its registry: which one, and nothing outside its folder."""

import json
from pathlib import Path

import pytest

from flagrelease.errors import ConfigError, UpstreamRefused
from flagrelease.ports.registry.referrers import VERSION, Artifact, File, attach
from flagrelease.stages.publish.attach import RELEASE
from flagrelease.verification.download import download
from flagrelease.verification.image import Reference
from support.released import Shelf

IMAGE = f"sha256:{'a' * 64}"


def shelf(*tags: str, name: str = "release.json", kind: str = RELEASE) -> Shelf:
    registry = Shelf(IMAGE)
    for tag in tags:
        file = File(name=name, media_type="text/plain", data=tag.encode())
        attach(registry, "h/r", IMAGE, Artifact(kind=kind, files=(file,), annotations={VERSION: tag}))
    return registry


def taken(registry: Shelf, into: Path, name: str = IMAGE) -> Path:
    return download(Reference(repository="h/r", name=name), registry, into)


def test_the_release_of_the_tag_is_taken(tmp_path: Path) -> None:
    registry = shelf("one", "two")
    registry.manifests["two"] = registry.manifests["latest"] = b"{}"
    registry.image = registry.digest("h/r", "two") or ""
    for tag in ("one", "two"):
        file = File(name="evidence/a.json", media_type="text/plain", data=tag.encode())
        artifact = Artifact(kind=RELEASE, files=(file,), annotations={VERSION: tag})
        attach(registry, "h/r", registry.image, artifact)
    folder = taken(registry, tmp_path, "two")
    assert folder == tmp_path / "two"
    assert (folder / "evidence/a.json").read_bytes() == b"two"
    with pytest.raises(ConfigError) as caught:
        taken(registry, tmp_path, "latest")
    assert (caught.value.why, caught.value.hint) == ("one, two", "give one of these tags")


def test_latest_is_the_release_that_no_other_one_replaces(tmp_path: Path) -> None:
    registry = shelf()
    registry.manifests["latest"] = b"{}"
    registry.image = registry.digest("h/r", "latest") or ""
    for tag, parent in (("one", ""), ("three", "two"), ("two", "one")):
        record = json.dumps({"lineage": {"revision": 1, "parent": parent}}).encode()
        file = File(name="release.json", media_type="application/json", data=record)
        attach(registry, "h/r", registry.image, Artifact(kind=RELEASE, files=(file,), annotations={VERSION: tag}))
    assert taken(registry, tmp_path, "latest") == tmp_path / "three"
    with pytest.raises(ConfigError, match="has 3 releases"):
        taken(registry, tmp_path, registry.image)


def test_the_only_release_is_taken_by_digest(tmp_path: Path) -> None:
    assert (taken(shelf("one"), tmp_path) / "release.json").read_bytes() == b"one"


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", ""])
def test_nothing_is_written_outside_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UpstreamRefused, match="has a file"):
        taken(shelf("one", name=name), tmp_path / "into")
    assert not list(tmp_path.rglob("outside"))


def test_a_tag_cannot_name_another_folder(tmp_path: Path) -> None:
    for tag in ("../../elsewhere", "..", "/outside"):
        assert taken(shelf(tag), tmp_path / "into") == tmp_path / "into/release"


def test_an_image_without_a_release_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        taken(shelf("one", kind="text/else"), tmp_path)
    assert caught.value.why == "its registry lists 1 referrers of other kinds"
    assert caught.value.hint == "give the folder of the release with --folder"
    with pytest.raises(UpstreamRefused, match="does not have h/r:gone") as refused:
        taken(shelf(), tmp_path, "gone")
    assert refused.value.hint == "check the name and the tag, or give the folder of the release instead"
    with pytest.raises(UpstreamRefused) as refused:
        download(Reference(repository="localhost:5000/r", name="gone"), shelf(), tmp_path)
    assert refused.value.hint.startswith("localhost:5000 is a registry of this machine: verify where the release was")
