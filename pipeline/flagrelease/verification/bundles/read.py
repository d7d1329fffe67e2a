"""Open a bundle like a release in a registry, and check the files that only a bundle has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flagrelease.errors import ConfigError, FlagreleaseError
from flagrelease.ports.registry.layout import MARK, Layout, blob_path
from flagrelease.store.digests import file_sha256
from flagrelease.verification.bundles.texts import DOCKER, IMAGE, RELEASE, SUMS, WEIGHTS, docker_manifest, texts
from flagrelease.verification.findings import Check, agrees, differs, not_checked
from flagrelease.verification.image import Reference
from flagrelease.verification.release import Release, open_release

__all__ = ["Bundle", "checks", "is_bundle", "opened"]

_CHECK = "bundle"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle on disk. Nothing in it is trusted."""

    folder: Path
    """The whole."""
    release: Release
    """The release folder in it."""
    layout: Layout
    """The image and what is attached to it."""
    reference: Reference
    """The image by the tag of the release."""


def is_bundle(folder: Path) -> bool:
    return (folder / IMAGE / MARK).is_file()


def opened(folder: Path) -> Bundle:
    """Raises ConfigError for a bundle with another number of releases than one, or a damaged one."""
    found = sorted(path for path in (folder / RELEASE).iterdir()) if (folder / RELEASE).is_dir() else []
    if len(found) != 1:
        raise ConfigError(f"{folder} is damaged", why=f"{RELEASE}/ has {len(found)} folders instead of one")
    release = open_release(found[0])
    return Bundle(
        folder=folder,
        release=release,
        layout=Layout(folder / IMAGE),
        reference=Reference(repository=release.record.image.repository, name=release.tag),
    )


def checks(bundle: Bundle) -> Iterator[Check]:
    """The blobs, the archive for Docker, the weights and the written files."""
    yield from _blobs(bundle)
    yield from _archive(bundle)
    yield from _texts(bundle)
    yield from _weights(bundle)


def _blobs(bundle: Bundle) -> Iterator[Check]:
    """Every blob is what its name says, and those of the image are complete."""
    folder, wrong, present = bundle.folder / IMAGE, 0, bundle.layout.blobs
    for digest in present:
        path = folder / "blobs/sha256" / digest.removeprefix("sha256:")
        found = f"sha256:{file_sha256(path)}" if path.is_file() else "not a file"
        if found != digest:
            wrong += 1
            yield differs(_CHECK, digest[:19], f"the blob is {found[:19]}…")
    for digest in _named(bundle):
        if not blob_path(folder, digest).is_file():
            wrong += 1
            yield differs(_CHECK, digest[:19], "the image names this blob, and the bundle does not have it")
    if not wrong:
        yield agrees(_CHECK, f"{IMAGE}/", f"{len(present)} blobs are what their digests say")


def _named(bundle: Bundle) -> list[str]:
    """The digests that the manifest of the image names."""
    try:
        manifest = json.loads(bundle.layout.manifest("", bundle.release.record.image.digest).body)
        listed = [*([manifest["config"]] if "config" in manifest else []), *manifest.get("layers", [])]
        return [str(part["digest"]) for part in (*listed, *manifest.get("manifests", []))]
    except (FlagreleaseError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []  # the check of the image names it


def _archive(bundle: Bundle) -> Iterator[Check]:
    """What Docker loads is the image that was evaluated."""
    path, image = bundle.folder / IMAGE / DOCKER, bundle.release.record.image
    try:
        manifest = json.loads(bundle.layout.manifest(image.repository, image.digest).body)
    except FlagreleaseError as error:
        yield differs(_CHECK, f"{IMAGE}/{DOCKER}", error.line())
        return
    expected = docker_manifest(manifest, str(bundle.reference))
    found = path.read_bytes() if path.is_file() else None
    if found != expected:
        yield differs(_CHECK, f"{IMAGE}/{DOCKER}", "Docker would load something else than the image of the release")
    elif expected is not None:
        yield agrees(_CHECK, f"{IMAGE}/{DOCKER}", "Docker loads the image of the release")


def _texts(bundle: Bundle) -> Iterator[Check]:
    """The lists and instructions are those that the record gives."""
    written = texts(bundle.release.record, bundle.release.tag, weights=(bundle.folder / WEIGHTS).is_dir())
    for name, expected in written.items():
        path = bundle.folder / name
        if not path.is_file():
            yield differs(_CHECK, name, "missing")
        elif path.read_bytes() == expected:
            yield agrees(_CHECK, name, "follows from the record")
        else:
            yield differs(_CHECK, name, "is not what the record gives")
    known = {*written, IMAGE, RELEASE, WEIGHTS}
    for path in sorted(bundle.folder.iterdir()):
        if path.name not in known and not path.name.endswith(".pub"):
            yield differs(_CHECK, path.name, "is not part of a bundle")


def _weights(bundle: Bundle) -> Iterator[Check]:
    folder, listed = bundle.folder / WEIGHTS, bundle.release.record.weights.files
    if not folder.is_dir():
        yield not_checked(_CHECK, WEIGHTS, f"not in the bundle; `sha256sum --check {SUMS}` checks them where they are")
        return
    wrong = [
        file.path
        for file in listed
        if not (folder / file.path).is_file() or file_sha256(folder / file.path) != file.sha256
    ]
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    wrong += sorted(present - {file.path for file in listed})
    yield from (differs(_CHECK, f"{WEIGHTS}/{name}", "is not the file of the record") for name in wrong)
    if not wrong:
        yield agrees(_CHECK, f"{WEIGHTS}/", f"{len(listed)} file{'s' * (len(listed) != 1)}, sha256 of the record")
