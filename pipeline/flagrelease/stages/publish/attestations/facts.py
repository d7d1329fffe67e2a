"""The record of a release, and the evidence of its image: all that the statements are built from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flagrelease.errors import ConfigError
from flagrelease.stages.card.record import Record
from flagrelease.stages.publish.release_folder import evidence_paths
from flagrelease.store.evidence import Evidence

__all__ = ["Facts", "gather"]

_MANIFEST, _PACKAGES, _SYSTEM = "manifest.json", "packages.json", "system-packages.json"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known about a release."""

    release: Record
    """The record, parsed."""
    raw: bytes
    """release.json as it is published."""
    tag: str
    """The tag of the release."""
    installed: tuple[Mapping[str, str], ...]
    """Packages of the image's manifest, which the release adds to its base: name, version, sha256, built_from."""
    packages: Mapping[str, str]
    """Version of each Python package in the image, by name."""
    system: Mapping[str, Any] | None
    """id, version and packages of the image's distribution; None if they were not recorded."""


def gather(release: Record, raw: bytes, tag: str, read: Callable[[str], bytes]) -> Facts:
    """The facts, with evidence from `read`, which is given a path in the release folder. Raises ConfigError for
    evidence that is not what the image stage writes, and the errors of `read`."""
    named = {file.name: path for path, file in paths("image", release.image.evidence).items()}

    def content(name: str) -> Any:
        if name not in named:
            return None
        try:
            found = json.loads(read(named[name]))
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{named[name]} is damaged", why=str(error)) from None
        if not isinstance(found, dict):
            raise ConfigError(f"{named[name]} is damaged", why="it is not a JSON object")
        return found

    manifest = content(_MANIFEST) or {}
    return Facts(
        release=release,
        raw=raw,
        tag=tag,
        installed=tuple(manifest.get("packages", ())),
        packages=content(_PACKAGES) or {},
        system=content(_SYSTEM),
    )


def paths(stage: str, files: tuple[Evidence, ...]) -> dict[str, Evidence]:
    """The evidence of a stage, by path in the release folder."""
    return evidence_paths([(stage, files)])
