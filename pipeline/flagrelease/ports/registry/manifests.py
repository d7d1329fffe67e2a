"""Manifests of images: their media types, and whether what a registry sent is one. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from flagrelease.errors import UpstreamRefused

__all__ = ["INDEX_TYPE", "MANIFEST_TYPE", "MANIFEST_TYPES", "PORTAL", "Manifest", "manifest_type"]

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPES = (
    MANIFEST_TYPE,
    INDEX_TYPE,
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
PORTAL = "a login page or a proxy may answer for the registry: check its address, HTTPS_PROXY and NO_PROXY"
"""The hint where something else than a registry may have answered."""

_LARGEST = 4 << 20  # bytes; registries accept no larger manifests


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest as the registry stores it."""

    digest: str
    """Of `body`, verified."""
    media_type: str
    body: bytes


def manifest_type(stated: str, body: bytes, what: str) -> str:
    """The media type of a manifest. Raises UpstreamRefused unless `body` is one of the type that is stated."""
    if problem := _not_a_manifest(stated, body):
        raise UpstreamRefused(f"no manifest came from {what}", why=problem, hint=PORTAL)
    return stated or str(json.loads(body)["mediaType"])


def _not_a_manifest(stated: str, body: bytes) -> str:
    """Why `body` is no manifest of the type `stated`; empty if it is."""
    if stated and stated not in MANIFEST_TYPES:
        return f"it is {stated}"
    if len(body) > _LARGEST:
        return f"it has {len(body)} bytes"
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return "it is not JSON"
    if not isinstance(document, dict) or document.get("schemaVersion") != 2:
        return "it is not a document with schemaVersion 2"
    inside = document.get("mediaType", stated)
    if inside not in MANIFEST_TYPES or (stated and inside != stated):
        return f"it calls itself {inside!r}" + (f", and is sent as {stated}" if stated else "")
    parts = [document.get("config", {}), document.get("layers", []), document.get("manifests", [])]
    if not isinstance(parts[0], dict) or not all(isinstance(part, list) for part in parts[1:]):
        return "its parts are not what those of a manifest are"
    for part in (*([parts[0]] if parts[0] else []), *parts[1], *parts[2]):
        size = part.get("size") if isinstance(part, dict) else None
        if type(size) is not int or size < 0 or not isinstance(part.get("digest"), str):
            return "one of its parts has no digest and size"
    return ""
