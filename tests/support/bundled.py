"""A small published release in a folder that serves as its registry, to bundle."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import support.finished_cell as given
from flagrelease.config.lockfile import LockedFile, set_digest
from flagrelease.contract.results import Weights
from flagrelease.ports.registry import MANIFEST_TYPE, Registry, referrers
from flagrelease.stages.card import record
from flagrelease.stages.publish import attach
from flagrelease.store.digests import sha256_of
from flagrelease.verification.release import Release, open_release

REPOSITORY = "registry.example/flagrelease/small"
MODEL = b"weights " * 1000


def push(registry: Registry, repository: str, marker: str = "in the image") -> tuple[str, str]:
    """A real image with one file, by digest: its digest and the id that Docker gives it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("marker")
        entry.size = len(marker.encode())
        archive.addfile(entry, io.BytesIO(marker.encode()))
    layer = gzip.compress(packed.getvalue(), mtime=0)
    files = {"type": "layers", "diff_ids": [f"sha256:{sha256_of(packed.getvalue())}"]}
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "config": {"Labels": {"vendor": "cpu"}}, "rootfs": files}
    ).encode()
    parts = [
        {
            "mediaType": f"application/vnd.oci.image.{kind}",
            "digest": registry.push_blob(repository, data),
            "size": len(data),
        }
        for kind, data in (("config.v1+json", config), ("layer.v1.tar+gzip", layer))
    ]
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": parts[0], "layers": parts[1:]}
    body = json.dumps(manifest).encode()
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    return registry.put_manifest(repository, digest, body, MANIFEST_TYPE), str(parts[0]["digest"])


def publish(registry: Registry, folder: Path, repository: str = REPOSITORY) -> Release:
    """Publish a release without answers to the registry; its folder is `folder`/TAG."""
    digest, image_id = push(registry, repository)
    image = given.image(repository=repository, digest=digest, image_id=image_id, labels={"vendor": "cpu"})
    file = LockedFile(path="sub/model.gguf", size=len(MODEL), sha256=sha256_of(MODEL))
    weights = Weights(
        folder="small/0", source="own://small", revision="1", digest=set_digest([file]), files=(file,), bytes_moved=0
    )
    release = given.record(image=image, weights=weights, smoke=given.smoke(image.reference))
    place = folder / release.tag
    place.mkdir(parents=True)
    (place / "release.json").write_bytes(record.dumps(release))
    for artifact in attach.artifacts(release, release.tag, {"release.json": place / "release.json"}):
        referrers.attach(registry, repository, digest, artifact)
    registry.tag(repository, digest, release.tag)
    return open_release(place)


def weights_folder(root: Path) -> Path:
    """The weights as they are in a workspace."""
    (root / "sub").mkdir(parents=True)
    (root / "sub/model.gguf").write_bytes(MODEL)
    return root
