"""`verify IMAGE`: the registry has what was evaluated, under the tag of its release."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import support.finished_cell as given
from flagrelease.errors import ConfigError, UpstreamRefused
from flagrelease.ports.registry import OciRegistry
from flagrelease.stages.card import record
from flagrelease.verification import image
from flagrelease.verification.findings import State
from flagrelease.verification.release import Release, open_release
from support.registry_blobs import upload
from support.registry_stand_in import Store, standing_in

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
NAME = "flagrelease/smollm2"


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def host(store: Store) -> Iterator[str]:
    with standing_in(store) as host:
        yield host


def push(host: str, **labels: str) -> tuple[str, str]:
    """An image with these labels: its digest and its id."""
    config = json.dumps({"os": "linux", "config": {"Labels": labels}}).encode()
    name = upload(f"{host}/{NAME}", config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"digest": name, "size": len(config)},
        "layers": [],
    }
    body = json.dumps(manifest).encode()
    digest = "sha256:" + hashlib.sha256(body).hexdigest()
    return OciRegistry().put_manifest(f"{host}/{NAME}", digest, body, MANIFEST), name


def release(folder: Path, host: str, digest: str, image_id: str, **labels: str) -> Release:
    pushed = given.image(repository=f"{host}/{NAME}", digest=digest, image_id=image_id, labels=labels)
    (folder / "release.json").write_bytes(record.dumps(given.record(image=pushed)))
    return open_release(folder)


def checked(made: Release, host: str, name: str) -> list[tuple[State, str, str]]:
    reference = image.Reference(repository=f"{host}/{NAME}", name=name)
    return [(c.state, c.subject, c.detail) for c in image.checks(made, reference, OciRegistry())]


def test_the_image_that_was_evaluated_agrees(tmp_path: Path, host: str) -> None:
    digest, name = push(host, vendor="cpu")
    made = release(tmp_path, host, digest, name, vendor="cpu")
    OciRegistry().tag(f"{host}/{NAME}", digest, made.tag)
    assert [state for state, _, _ in checked(made, host, made.tag)] == [State.AGREES] * 2
    assert checked(made, host, digest)[1] == (State.AGREES, f"{host}/{NAME}:{made.tag}", "is the same digest")


def test_a_moved_tag_is_named(tmp_path: Path, host: str) -> None:
    digest, name = push(host, vendor="cpu")
    other, _ = push(host, vendor="else")
    made = release(tmp_path, host, digest, name, vendor="cpu")
    OciRegistry().tag(f"{host}/{NAME}", other, made.tag)
    moved = f"is {other[:19]}…; {digest[:19]}… was evaluated"
    assert checked(made, host, made.tag) == [(State.DIFFERS, f"{host}/{NAME}:{made.tag}", moved)]
    by_digest = (State.DIFFERS, f"{host}/{NAME}:{made.tag}", f"the tag was moved to {other[:19]}…")
    assert by_digest in checked(made, host, digest)


def test_a_missing_tag_and_another_tag_are_named(tmp_path: Path, host: str) -> None:
    digest, name = push(host, vendor="cpu")
    made = release(tmp_path, host, digest, name, vendor="cpu")
    assert checked(made, host, made.tag)[0][2] == "the registry does not have it"
    OciRegistry().tag(f"{host}/{NAME}", digest, "mine")
    assert (State.DIFFERS, f"{host}/{NAME}:mine", f"the tag of this release is {made.tag}") in checked(
        made, host, "mine"
    )
    OciRegistry().tag(f"{host}/{NAME}", digest, "latest")
    gone = "the registry does not have the tag of this release"
    assert checked(made, host, "latest")[1] == (State.DIFFERS, f"{host}/{NAME}:{made.tag}", gone)


def test_other_labels_and_another_configuration_are_named(tmp_path: Path, host: str) -> None:
    digest, name = push(host, vendor="cpu")
    made = release(tmp_path, host, digest, "sha256:" + "0" * 64, vendor="metax")
    details = [detail for _, subject, detail in checked(made, host, digest) if subject == "labels"]
    assert details == [
        f"the image's id is {name[:19]}…, the record has sha256:{'0' * 12}…",
        "vendor is metax, computed cpu",
    ]


def test_a_blob_with_other_content_is_refused(host: str, store: Store) -> None:
    digest, name = push(host, vendor="cpu")
    store.blobs[name] = b"{}"
    assert digest
    with pytest.raises(UpstreamRefused, match="sent a blob other than"):
        OciRegistry().blob(f"{host}/{NAME}", name)


@pytest.mark.parametrize(
    ("text", "repository", "name"),
    [
        ("localhost:5000/a/b:tag-1.0", "localhost:5000/a/b", "tag-1.0"),
        (f"h.example/a@sha256:{'0' * 64}", "h.example/a", f"sha256:{'0' * 64}"),
        (f"h.example/a:one@sha256:{'0' * 64}", "h.example/a", f"sha256:{'0' * 64}"),
    ],
)
def test_a_reference_is_read(text: str, repository: str, name: str) -> None:
    assert image.parse(text) == image.Reference(repository=repository, name=name)


@pytest.mark.parametrize("text", ["", "a", "localhost:5000/a", "h/a@sha256:12", "h/A:tag", "h/a:-"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="neither a folder nor an image"):
        image.parse(text)
