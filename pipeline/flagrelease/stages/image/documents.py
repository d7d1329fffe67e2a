"""Manifest and configuration of an assembled image, from those of its base. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flagrelease.ports.registry.manifests import MANIFEST_TYPE
from flagrelease.recipe.container import PORT
from flagrelease.recipe.image_paths import DOCKER
from flagrelease.stages.image.base import Base
from flagrelease.stages.image.layer import Layer
from flagrelease.stages.image.process_root import ENTRYPOINT
from flagrelease.store.digests import sha256_of

__all__ = ["Documents", "Part", "documents"]

_CREATED = "2000-01-01T00:00:00Z"
"""The date of an image whose base has none."""
_OCI = ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip")
_DOCKER = (
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A layer that is added to the base."""

    name: str
    """What it has, for the image's history."""
    layer: Layer


@dataclass(frozen=True, kw_only=True)
class Documents:
    """What a registry stores of an image besides its layers."""

    config: bytes
    manifest: bytes
    media_type: str
    """That of the manifest."""

    @property
    def image_id(self) -> str:
        return f"sha256:{sha256_of(self.config)}"

    @property
    def digest(self) -> str:
        return f"sha256:{sha256_of(self.manifest)}"


def documents(base: Base, parts: Sequence[Part], labels: Mapping[str, str]) -> Documents:
    """The documents of `base` with `parts` on top; like the base's in kind, and dated like it."""
    config_type, layer_type = _OCI if base.media_type == MANIFEST_TYPE else _DOCKER
    config = _encoded(_config(base.config, parts, labels))
    own = [{"mediaType": layer_type, "digest": part.layer.digest, "size": part.layer.size} for part in parts]
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": base.media_type,
        "config": {"mediaType": config_type, "digest": f"sha256:{sha256_of(config)}", "size": len(config)},
        "layers": [*base.manifest["layers"], *own],
    }
    return Documents(config=config, manifest=_encoded(manifest), media_type=base.media_type)


def _config(base: Mapping[str, Any], parts: Sequence[Part], labels: Mapping[str, str]) -> dict[str, Any]:
    """What the Dockerfile's instructions say, on top of the base's configuration."""
    created = str(base.get("created") or _CREATED)
    inner = {name: value for name, value in (base.get("config") or {}).items() if name != "OnBuild"}
    inner |= {
        "Env": _env(inner.get("Env") or []),
        "Entrypoint": list(ENTRYPOINT),
        "Cmd": [],
        "ExposedPorts": {**(inner.get("ExposedPorts") or {}), f"{PORT}/tcp": {}},
        "Labels": {**(inner.get("Labels") or {}), **labels},
    }
    kept = ("architecture", "os", "os.version", "os.features", "variant")
    return {
        **{name: base[name] for name in kept if name in base},
        "created": created,
        "config": inner,
        "rootfs": {
            "type": "layers",
            "diff_ids": [*base["rootfs"]["diff_ids"], *(part.layer.diff_id for part in parts)],
        },
        **_history(base, parts, created),
    }


def _history(base: Mapping[str, Any], parts: Sequence[Part], created: str) -> dict[str, Any]:
    """The history, unless the base's does not fit its layers: some builders write none."""
    before = base.get("history") or []
    if sum(not each.get("empty_layer") for each in before) != len(base["rootfs"]["diff_ids"]):
        return {}
    return {"history": [*before, *({"created": created, "created_by": f"flagrelease: {part.name}"} for part in parts)]}


_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Docker's, for an image that names none."""


def _env(base: Sequence[str]) -> list[str]:
    """The base's environment, with the release's programs first on the path."""
    first = f"PATH={DOCKER.programs}:{DOCKER.packages}/bin:"
    given = base if any(each.startswith("PATH=") for each in base) else [_PATH, *base]
    return [first + each.removeprefix("PATH=") if each.startswith("PATH=") else each for each in given]


def _encoded(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
