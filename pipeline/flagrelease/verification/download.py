"""Take a release from the registry: the files that are attached to its image."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import msgspec

from flagrelease.errors import ConfigError, UpstreamRefused
from flagrelease.ports.http import is_loopback
from flagrelease.ports.registry import MOVABLE, Registry, referrers
from flagrelease.ports.registry.referrers import TITLE, VERSION, Attached
from flagrelease.stages.card.files import RECORD
from flagrelease.stages.publish.attach import RELEASE
from flagrelease.store.files import write_atomic
from flagrelease.verification.image import Reference

__all__ = ["download"]


class _Lineage(msgspec.Struct):
    parent: str = ""


class _Recorded(msgspec.Struct):
    lineage: _Lineage


_MOST_BYTES = 4 << 30
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def download(reference: Reference, registry: Registry, into: Path) -> Path:
    """Write the release that is attached to an image to a folder in `into`, and return that. Raises the registry's
    errors, and ConfigError for an image without a release, or with several where the reference does not say which."""
    digest = registry.digest(reference.repository, reference.name)
    if digest is None:
        raise UpstreamRefused(f"the registry does not have {reference}", hint=_elsewhere(reference))
    found = _chosen(reference, referrers.attached(registry, reference.repository, digest), registry)
    tag = found.annotations.get(VERSION, "")
    folder = into / (tag if _TAG.fullmatch(tag) else "release")
    for file in referrers.files(registry, reference.repository, found, most_bytes=_MOST_BYTES):
        path = PurePosixPath(file.name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise UpstreamRefused(
                f"the release of {reference} has a file {file.name!r}", why="it is outside the folder"
            )
        write_atomic(folder / path, file.data)
    return folder


def _elsewhere(reference: Reference) -> str:
    """What to do about an image that the registry does not have."""
    host = reference.repository.partition("/")[0]
    folder = "give the folder of the release instead"
    if is_loopback(host):
        return f"{host} is a registry of this machine: verify where the release was made, or {folder}"
    return f"check the name and the tag, or {folder}"


def _chosen(reference: Reference, attached: tuple[Attached, ...], registry: Registry) -> Attached:
    releases = {each.annotations.get(VERSION, ""): each for each in attached if each.kind == RELEASE}
    if reference.name in releases:
        return releases[reference.name]
    if len(releases) == 1:
        return next(iter(releases.values()))
    if not releases:
        raise ConfigError(
            f"no release is attached to {reference}",
            why=f"its registry lists {len(attached)} referrers of other kinds" if attached else "it has no referrers",
            hint="give the folder of the release with --folder",
        )
    if reference.name in MOVABLE and (newest := _newest(reference, releases, registry)):
        return releases[newest]
    raise ConfigError(
        f"{reference} has {len(releases)} releases", why=", ".join(sorted(releases)), hint="give one of these tags"
    )


def _newest(reference: Reference, releases: Mapping[str, Attached], registry: Registry) -> str:
    """The tag of the release that no other one of the same image replaces, by their records; empty if they do not say.

    An image has several releases if only the card or the evidence changed.
    """
    replaced = set()
    for each in releases.values():
        manifest = json.loads(registry.manifest(reference.repository, each.digest).body)
        records = [one for one in manifest.get("layers", []) if (one.get("annotations") or {}).get(TITLE) == RECORD]
        try:
            raw = registry.blob(reference.repository, str(records[0]["digest"]))
            replaced.add(msgspec.json.decode(raw, type=_Recorded).lineage.parent)
        except (IndexError, ValueError, RecursionError):
            return ""
    left = releases.keys() - replaced
    return left.pop() if len(left) == 1 else ""
