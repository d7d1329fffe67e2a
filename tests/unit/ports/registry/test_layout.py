"""A folder in the OCI layout as a registry: what is written comes back, and nothing in it is believed."""

import json
from pathlib import Path

import pytest

from flagrelease.errors import ConfigError, UpstreamRefused
from flagrelease.ports.registry import MANIFEST_TYPE, referrers
from flagrelease.ports.registry.layout import INDEX, MARK, Layout, blob_path
from flagrelease.ports.registry.referrers import Artifact, File
from flagrelease.store.digests import sha256_of

BODY = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "layers": []}).encode()
DIGEST = f"sha256:{sha256_of(BODY)}"
OTHER = BODY + b" "


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path)
    assert made.put_manifest("r", DIGEST, BODY, MANIFEST_TYPE) == DIGEST
    made.tag("r", DIGEST, "v1")
    return made


def test_what_was_written_is_read_again(layout: Layout, tmp_path: Path) -> None:
    artifact = Artifact(
        kind="a/b", files=(File(name="f", media_type="text/plain", data=b"text"),), annotations={"x": "y"}
    )
    for _ in range(2):
        attached = referrers.attach(layout, "r", DIGEST, artifact)
    again = Layout(tmp_path)
    assert (again.digest("r", "v1"), again.digest("r", DIGEST), again.digest("r", "v2")) == (DIGEST, DIGEST, None)
    assert again.manifest("r", "v1").body == BODY
    (found,) = referrers.attached(again, "r", DIGEST)
    assert (found.digest, found.kind, found.annotations) == (attached, "a/b", {"x": "y"})
    assert [file.data for file in referrers.files(again, "r", found, most_bytes=10)] == [b"text"]
    assert json.loads((tmp_path / MARK).read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert all(again.has_blob("r", digest) for digest in again.blobs)
    entries = json.loads((tmp_path / INDEX).read_text())["manifests"]
    assert [entry["annotations"] for entry in entries if entry["digest"] == DIGEST] == [
        {"org.opencontainers.image.ref.name": "v1"}
    ]


def test_a_tag_is_not_moved(layout: Layout) -> None:
    other = layout.put_manifest("r", f"sha256:{sha256_of(OTHER)}", OTHER, MANIFEST_TYPE)
    with pytest.raises(UpstreamRefused, match="has v1 already"):
        layout.tag("r", other, "v1")
    layout.tag("r", DIGEST, "latest")
    layout.tag("r", other, "latest")
    assert (layout.digest("r", "latest"), layout.digest("r", "v1")) == (other, DIGEST)


def test_a_changed_blob_is_refused(layout: Layout, tmp_path: Path) -> None:
    blob_path(tmp_path, DIGEST).write_bytes(OTHER)
    with pytest.raises(UpstreamRefused, match="has a blob other than sha256:"):
        layout.manifest("r", "v1")
    blob_path(tmp_path, DIGEST).unlink()
    with pytest.raises(UpstreamRefused, match="does not have the blob"):
        layout.manifest("r", "v1")
    with pytest.raises(UpstreamRefused, match="does not have v2"):
        layout.manifest("r", "v2")


def test_a_blob_is_written_completely_or_not_at_all(layout: Layout, tmp_path: Path) -> None:
    wanted = f"sha256:{sha256_of(b'whole')}"
    with pytest.raises(UpstreamRefused, match="what was sent is not"):
        layout.write_blob("r", wanted, iter((b"wh",)))
    assert not layout.has_blob("r", wanted)
    assert [path.name for path in (tmp_path / "blobs/sha256").iterdir()] == [DIGEST[7:]]
    layout.write_blob("r", wanted, iter((b"wh", b"ole")))
    assert layout.blob("r", wanted) == b"whole"


@pytest.mark.parametrize("digest", ["sha256:../../x", "sha512:" + "0" * 64, "v1", "sha256:" + "0" * 63 + "/"])
def test_a_digest_is_not_a_path(layout: Layout, digest: str) -> None:
    with pytest.raises(UpstreamRefused, match="is not a sha256 digest"):
        layout.blob("r", digest)


@pytest.mark.parametrize("index", ["{", "[]", '{"manifests": [{}]}', '{"manifests": [{"digest": "sha256:../x"}]}'])
def test_a_damaged_index_is_named(tmp_path: Path, index: str) -> None:
    (tmp_path / INDEX).write_text(index)
    with pytest.raises((ConfigError, UpstreamRefused)):
        Layout(tmp_path)
