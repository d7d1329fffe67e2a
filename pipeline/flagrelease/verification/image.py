"""Check that a registry has the image that was evaluated, under the release's tag."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flagrelease.errors import ConfigError
from flagrelease.ports.registry import MANIFEST_TYPES, MOVABLE, Registry
from flagrelease.verification.findings import Check, agrees, differs
from flagrelease.verification.release import Release
from flagrelease.verification.values import differences

__all__ = ["Reference", "checks", "parse"]

_CHECK = "image"
_REFERENCE = re.compile(
    r"(?P<repository>[\w.-]+(:\d+)?(/[a-z0-9._-]+)+)(:(?P<tag>[\w][\w.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """HOST/NAME with a tag or a digest."""

    repository: str
    name: str
    """The tag or digest that names the image."""

    def __str__(self) -> str:
        return f"{self.repository}{'@' if ':' in self.name else ':'}{self.name}"


def parse(text: str) -> Reference:
    """Raises ConfigError for something else."""
    match = _REFERENCE.fullmatch(text)
    name = (match["digest"] or match["tag"]) if match else None
    if match is None or name is None:
        raise ConfigError(
            f"{text!r} is neither a folder nor an image",
            hint="give the folder of a release, or HOST/NAME:TAG or HOST/NAME@sha256:… of its image",
        )
    return Reference(repository=match["repository"], name=name)


def checks(release: Release, reference: Reference, registry: Registry) -> Iterator[Check]:
    """Compare the image in the registry with the one in the record. Raises the registry's errors."""
    image = release.record.image
    digest = registry.digest(reference.repository, reference.name)
    if digest is None:
        yield differs(_CHECK, str(reference), "the registry does not have it")
        return
    if digest != image.digest:
        yield differs(_CHECK, str(reference), f"is {digest[:19]}…; {image.digest[:19]}… was evaluated")
        return
    yield agrees(_CHECK, str(reference), f"is the digest that was evaluated, {digest[:19]}…")
    yield from _tag(release, reference, registry)
    yield from _content(release, reference, registry)


def _tag(release: Release, reference: Reference, registry: Registry) -> Iterator[Check]:
    """The release's own tag has not been moved, whatever name the image was given by."""
    if reference.name == release.tag:
        return
    subject = f"{reference.repository}:{release.tag}"
    digest = registry.digest(reference.repository, release.tag)
    if ":" not in reference.name and reference.name not in MOVABLE:
        yield differs(_CHECK, str(reference), f"the tag of this release is {release.tag}")
    elif digest is None:
        yield differs(_CHECK, subject, "the registry does not have the tag of this release")
    elif digest != release.record.image.digest:
        yield differs(_CHECK, subject, f"the tag was moved to {digest[:19]}…")
    else:
        yield agrees(_CHECK, subject, "is the same digest")


def _content(release: Release, reference: Reference, registry: Registry) -> Iterator[Check]:
    """The image's configuration: its id and labels are the record's."""
    image = release.record.image
    manifest = registry.manifest(reference.repository, image.digest)
    config = _config(manifest.body) if manifest.media_type in MANIFEST_TYPES else ""
    if not config:
        yield differs(_CHECK, "labels", "the manifest names no configuration")
        return
    if config != image.image_id:
        yield differs(_CHECK, "labels", f"the image's id is {config[:19]}…, the record has {image.image_id[:19]}…")
    found = differences(image.labels, _labels(registry.blob(reference.repository, config)))
    yield from (differs(_CHECK, "labels", text) for text in found)
    if not found:
        yield agrees(_CHECK, "labels", f"all {len(image.labels)} are the record's")


def _config(manifest: bytes) -> str:
    content = _object(manifest)
    config = content.get("config")
    digest = config.get("digest") if isinstance(config, dict) else None
    return digest if isinstance(digest, str) else ""


def _labels(config: bytes) -> Mapping[str, Any]:
    inner = _object(config).get("config")
    labels = inner.get("Labels") if isinstance(inner, dict) else None
    return labels if isinstance(labels, dict) else {}


def _object(raw: bytes) -> dict[str, Any]:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
