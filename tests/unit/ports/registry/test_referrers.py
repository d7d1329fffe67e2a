"""Artifacts attached to an image: through the registry's API for referrers, or the index under the tag `sha256-HEX`."""

import json
from dataclasses import dataclass

import pytest

from flagrelease.errors import UpstreamRefused
from flagrelease.ports.registry import OciRegistry
from flagrelease.ports.registry.referrers import Artifact, Attached, File, attach, attached, files
from flagrelease.store.digests import sha256_of
from support.registry_blobs import upload
from support.registry_stand_in import Store, standing_in
from support.released import Shelf

IMAGE = f"sha256:{'a' * 64}"
NOTES = Artifact(
    kind="text/notes", files=(File(name="a/b.txt", media_type="text/plain", data=b"one"),), annotations={"v": "1"}
)


@dataclass
class Listing(Shelf):
    """A registry with the API: it lists what names the image as its subject."""

    def referrers(self, _repository: str, digest: str) -> bytes | None:
        listed = []
        for body in {id(body): body for body in self.manifests.values()}.values():
            manifest = json.loads(body)
            if manifest.get("subject", {}).get("digest") == digest:
                entry = {"digest": f"sha256:{sha256_of(body)}", "artifactType": manifest["artifactType"]}
                listed.append({**entry, "annotations": manifest["annotations"]})
        return json.dumps({"schemaVersion": 2, "manifests": listed}).encode()


@pytest.mark.parametrize("kind", [Shelf, Listing])
def test_what_is_attached_is_found_once(kind: type[Shelf]) -> None:
    registry = kind(IMAGE)
    digest = attach(registry, "h/r", IMAGE, NOTES)
    assert attach(registry, "h/r", IMAGE, NOTES) == digest
    (found,) = attached(registry, "h/r", IMAGE)
    assert found == Attached(digest=digest, kind="text/notes", annotations={"v": "1"})
    assert files(registry, "h/r", found, most_bytes=3) == NOTES.files
    assert (f"sha256-{'a' * 64}" in registry.manifests) is (kind is Shelf), "no tag where the API lists it"


def test_the_index_keeps_what_others_attached() -> None:
    registry = Shelf(IMAGE)
    attach(registry, "h/r", IMAGE, NOTES)
    attach(registry, "h/r", IMAGE, Artifact(kind="text/else", files=NOTES.files))
    assert [each.kind for each in attached(registry, "h/r", IMAGE)] == ["text/notes", "text/else"]


def test_a_manifest_names_its_subject_kind_and_files() -> None:
    registry = Shelf(IMAGE)
    manifest = json.loads(registry.manifests[attach(registry, "h/r", IMAGE, NOTES)])
    assert manifest["artifactType"] == "text/notes"
    assert manifest["subject"]["digest"] == IMAGE
    assert manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    assert [layer["annotations"]["org.opencontainers.image.title"] for layer in manifest["layers"]] == ["a/b.txt"]


def test_too_much_and_files_without_a_name_are_refused() -> None:
    registry = Shelf(IMAGE)
    attach(registry, "h/r", IMAGE, NOTES)
    (found,) = attached(registry, "h/r", IMAGE)
    with pytest.raises(UpstreamRefused) as caught:
        files(registry, "h/r", found, most_bytes=2)
    assert caught.value.why == "more than 2 bytes"
    manifest = json.loads(registry.manifests[found.digest])
    del manifest["layers"][0]["annotations"]
    registry.manifests[found.digest] = json.dumps(manifest).encode()
    with pytest.raises(UpstreamRefused, match="is not taken"):
        files(registry, "h/r", found, most_bytes=3)


def test_an_image_without_referrers_has_none() -> None:
    assert attached(Shelf(IMAGE), "h/r", IMAGE) == ()


def test_a_blob_is_sent_once_and_a_registry_without_the_api_says_so() -> None:
    store = Store()
    with standing_in(store) as host:
        registry, repository = OciRegistry(), f"{host}/a/b"
        digest = registry.push_blob(repository, b"one")
        assert store.blobs == {digest: b"one"}
        assert registry.blob(repository, digest) == b"one"
        store.calls.clear()
        assert registry.push_blob(repository, b"one") == upload(repository, b"one") == digest
        assert store.calls[0].startswith("HEAD ")
        assert not store.calls[1].startswith("PUT ")
        assert registry.referrers(repository, IMAGE) is None
