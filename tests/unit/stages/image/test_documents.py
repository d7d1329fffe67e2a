"""Manifest and configuration of an assembled image: the base's, with what the Dockerfile says on top."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flagrelease.stages.image.base import Base
from flagrelease.stages.image.documents import Documents, Part, documents
from flagrelease.stages.image.layer import Layer
from flagrelease.store.digests import sha256_of

DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
OCI = "application/vnd.oci.image.manifest.v1+json"
PARTS = [
    Part(
        name=name,
        layer=Layer(path=Path(), digest=f"sha256:{digit * 64}", size=7, diff_id=f"sha256:{digit * 63}0", unpacked=9),
    )
    for name, digit in (("packages", "a"), ("kernels and manifest", "b"))
]


def made(media_type: str = OCI, inner: Any = None, **config: Any) -> Documents:
    whole = {
        "architecture": "amd64", "os": "linux", "created": "2026-05-01T00:00:00Z", "container": "builder's own",
        "rootfs": {"type": "layers", "diff_ids": ["sha256:1"]}, "history": [{"created_by": "debootstrap"}], **config,
        "config": inner,
    }  # fmt: skip
    layers = [{"mediaType": "some/zstd", "digest": "sha256:0", "size": 5}]
    base = Base(
        reference="r", id="i", repository="h/r", manifest={"layers": layers}, media_type=media_type, config=whole
    )
    return documents(base, PARTS, {"io.flagos.chip": "cpu"})


def config(found: Documents) -> Any:
    return json.loads(found.config)


def test_the_base_s_configuration_stays_but_for_what_the_dockerfile_says() -> None:
    given = {
        "Env": ["A=1", "PATH=/conda/bin:/bin"], "Entrypoint": ["/bin/sh"], "Cmd": ["bash"], "User": "serve",
        "WorkingDir": "/w", "Labels": {"vendor": "x", "io.flagos.chip": "older"}, "ExposedPorts": {"22/tcp": {}},
        "OnBuild": ["RUN rm -rf /"],
    }  # fmt: skip
    found = config(made(inner=given))
    assert found["config"] == {
        "Env": ["A=1", "PATH=/opt/flagos/bin:/opt/flagos/lib/bin:/conda/bin:/bin"],
        "Entrypoint": ["flagos-serve"], "Cmd": [], "User": "serve", "WorkingDir": "/w",
        "Labels": {"vendor": "x", "io.flagos.chip": "cpu"}, "ExposedPorts": {"22/tcp": {}, "8000/tcp": {}},
    }  # fmt: skip
    assert found["rootfs"]["diff_ids"] == ["sha256:1", *(part.layer.diff_id for part in PARTS)]
    assert [each["created_by"] for each in found["history"]] == [
        "debootstrap", "flagrelease: packages", "flagrelease: kernels and manifest",
    ]  # fmt: skip
    assert found["created"] == "2026-05-01T00:00:00Z", "of the base: today would give another digest each day"
    assert "container" not in found


@pytest.mark.parametrize(("media_type", "kind"), [(OCI, "oci"), (DOCKER, "docker")])
def test_it_is_of_the_base_s_kind_and_the_base_s_layers_stay_as_they_are(media_type: str, kind: str) -> None:
    found = made(media_type)
    manifest = json.loads(found.manifest)
    assert (manifest["mediaType"], found.media_type) == (media_type, media_type)
    assert manifest["layers"][0] == {"mediaType": "some/zstd", "digest": "sha256:0", "size": 5}
    assert [(each["digest"], each["size"]) for each in manifest["layers"][1:]] == [
        (part.layer.digest, part.layer.size) for part in PARTS
    ]
    assert all(f"vnd.{kind}." in each["mediaType"] for each in (manifest["config"], *manifest["layers"][1:]))
    assert manifest["config"]["digest"] == found.image_id == f"sha256:{sha256_of(found.config)}"
    assert found.digest == f"sha256:{sha256_of(found.manifest)}"


def test_a_base_without_environment_date_and_history_gets_the_usual_ones() -> None:
    found = config(made(created=None, history=None))
    assert found["config"]["Env"] == [
        "PATH=/opt/flagos/bin:/opt/flagos/lib/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    ]
    assert found["created"] == "2000-01-01T00:00:00Z"
    assert "history" not in found, "engines refuse one that does not fit the layers"
