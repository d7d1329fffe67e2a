"""Attach files to an image in a registry, as OCI referrers (OCI distribution v1.1, "Listing Referrers").

A registry without the API for referrers gets their index under the tag `sha256-HEX`, as the specification describes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flagrelease.errors import UpstreamRefused
from flagrelease.ports.registry import INDEX_TYPE, MANIFEST_TYPE, Registry
from flagrelease.store.digests import sha256_of

__all__ = ["TITLE", "VERSION", "Artifact", "Attached", "File", "attach", "attached", "files", "register"]

TITLE = "org.opencontainers.image.title"
"""The annotation with the name of a file."""
VERSION = "org.opencontainers.image.version"
"""The annotation with the tag of a release."""
_EMPTY, _EMPTY_TYPE = b"{}", "application/vnd.oci.empty.v1+json"


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of an artifact that is attached."""

    name: str
    """A path relative to the artifact."""
    media_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """Files that belong to an image."""

    kind: str
    """The artifact's media type."""
    files: tuple[File, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Attached:
    """An artifact in a registry."""

    digest: str
    """Of its manifest, sha256:…"""
    kind: str
    """Its media type."""
    annotations: Mapping[str, str]


def attach(registry: Registry, repository: str, image: str, artifact: Artifact) -> str:
    """Attach `artifact` to the image with this digest, and return its digest. Idempotent: the same files are the same
    artifact. Raises the registry's errors."""
    subject = registry.manifest(repository, image)
    registry.push_blob(repository, _EMPTY)
    layers = []
    for file in artifact.files:
        digest = registry.push_blob(repository, file.data)
        layers.append(_descriptor(file.media_type, digest, file.data, annotations={TITLE: file.name}))
    body = _canonical(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": artifact.kind,
            "config": _descriptor(_EMPTY_TYPE, f"sha256:{sha256_of(_EMPTY)}", _EMPTY),
            "layers": layers,
            "subject": _descriptor(subject.media_type, image, subject.body),
            "annotations": dict(artifact.annotations),
        }
    )
    digest = registry.put_manifest(repository, f"sha256:{sha256_of(body)}", body, MANIFEST_TYPE)
    known = Attached(digest=digest, kind=artifact.kind, annotations=artifact.annotations)
    register(registry, repository, image, known, body)
    return digest


def register(registry: Registry, repository: str, image: str, artifact: Attached, body: bytes) -> None:
    """Add an artifact whose manifest is `body` to the index of a registry without the API for referrers; others do that
    themselves. Raises the registry's errors."""
    if registry.referrers(repository, image) is not None:
        return
    listed = _listed(registry, repository, image)
    if artifact.digest not in [entry.get("digest") for entry in listed]:
        own = _descriptor(MANIFEST_TYPE, artifact.digest, body, annotations=artifact.annotations)
        index = {
            "schemaVersion": 2,
            "mediaType": INDEX_TYPE,
            "manifests": [*listed, {**own, "artifactType": artifact.kind}],
        }
        registry.put_manifest(repository, _fallback(image), _canonical(index), INDEX_TYPE)


def attached(registry: Registry, repository: str, image: str) -> tuple[Attached, ...]:
    """What is attached to the image with this digest. Raises the registry's errors."""
    return tuple(
        Attached(
            digest=str(entry.get("digest")),
            kind=str(entry.get("artifactType", "")),
            annotations={str(name): str(value) for name, value in (entry.get("annotations") or {}).items()},
        )
        for entry in _listed(registry, repository, image)
    )


def files(registry: Registry, repository: str, artifact: Attached, *, most_bytes: int) -> tuple[File, ...]:
    """The files of an artifact. Raises UpstreamRefused if they are larger than `most_bytes`, or without a name."""
    manifest = _object(registry.manifest(repository, artifact.digest).body)
    found: list[File] = []
    left = most_bytes
    for layer in manifest.get("layers", []):
        name = (layer.get("annotations") or {}).get(TITLE)
        left -= int(layer["size"])
        if left < 0 or not isinstance(name, str):
            why = f"more than {most_bytes:,} bytes" if left < 0 else "one of its files has no name"
            raise UpstreamRefused(f"{artifact.digest[:19]}… in {repository} is not taken", why=why)
        data = registry.blob(repository, str(layer["digest"]))
        found.append(File(name=name, media_type=str(layer.get("mediaType", "")), data=data))
    return tuple(found)


def _listed(registry: Registry, repository: str, image: str) -> list[dict[str, Any]]:
    raw = registry.referrers(repository, image)
    if raw is None:
        if registry.digest(repository, _fallback(image)) is None:
            return []
        raw = registry.manifest(repository, _fallback(image)).body
    entries = _object(raw).get("manifests", [])
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _fallback(image: str) -> str:
    """The tag of the index of referrers in a registry without the API."""
    return image.replace(":", "-")


def _descriptor(
    media_type: str, digest: str, data: bytes, annotations: Mapping[str, str] | None = None
) -> dict[str, Any]:
    made: dict[str, Any] = {"mediaType": media_type, "digest": digest, "size": len(data)}
    return {**made, "annotations": dict(annotations)} if annotations else made


def _canonical(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _object(raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise UpstreamRefused("the registry sent a list of referrers that is not JSON")
    return document
