"""Write a bundle: image and referrers from the registry, release folder, weights and instructions."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from flagrelease.errors import ConfigError, EnvironmentFault, UpstreamRefused
from flagrelease.ports.clock import Clock
from flagrelease.ports.registry import Registry
from flagrelease.ports.registry.layout import Layout
from flagrelease.ports.registry.transfer import Transfer
from flagrelease.store.files import abandoned, sync_folder, translate_disk_errors, unfinished, write_atomic
from flagrelease.verification.bundles.texts import DOCKER, IMAGE, RELEASE, WEIGHTS, docker_manifest, texts
from flagrelease.verification.download import download
from flagrelease.verification.image import Reference
from flagrelease.verification.release import Release

__all__ = ["write"]


def write(release: Release, registry: Registry, folder: Path, clock: Clock, weights: Path | None = None) -> Path:
    """Write the bundle of a published release to `folder`, which appears once it is complete; `weights` is the folder
    of the files to add. Raises ConfigError if `folder` exists, EnvironmentFault for weights that are missing, and the
    registry's errors."""
    if folder.exists():
        raise ConfigError(f"{folder} exists", hint="choose another folder with --output, or remove it")
    with translate_disk_errors(f"writing {folder.name}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for leftover in filter(abandoned, folder.parent.iterdir()):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=unfinished()))
        try:
            fresh.chmod(0o755)
            _fill(release, registry, fresh, clock, weights)
            fresh.rename(folder)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        sync_folder(folder.parent)
    return folder


def _fill(release: Release, registry: Registry, into: Path, clock: Clock, weights: Path | None) -> None:
    image, layout = release.record.image, Layout(into / IMAGE)
    reference = Reference(repository=image.repository, name=release.tag)
    if registry.digest(image.repository, release.tag) != image.digest:
        raise UpstreamRefused(
            f"{reference} is not the image of the release",
            why=f"the registry has {registry.digest(image.repository, release.tag) or 'no such tag'}",
            hint=f"`flagrelease verify {reference}` says more",
        )
    way = Transfer(
        source=registry,
        source_repository=image.repository,
        target=layout,
        target_repository=image.repository,
        clock=clock,
    )
    way.image(image.digest)
    way.attached(image.digest)
    layout.tag(image.repository, image.digest, release.tag)
    download(reference, layout, into / RELEASE)
    manifest = json.loads(layout.manifest(image.repository, image.digest).body)
    if (archive := docker_manifest(manifest, str(reference))) is not None:
        write_atomic(into / IMAGE / DOCKER, archive)
    for name, data in texts(release.record, release.tag, weights=weights is not None).items():
        write_atomic(into / name, data)
    if weights is not None:
        _copy(release, weights, into / WEIGHTS)


def _copy(release: Release, weights: Path, into: Path) -> None:
    for file in release.record.weights.files:
        source = weights / file.path
        if not source.is_file() or source.stat().st_size != file.size:
            raise EnvironmentFault(
                f"the weights of {release.record.cell} are not complete",
                why=f"{source} is missing or has another size",
                hint=f"fetch them again: `flagrelease run {release.record.cell} --only weights`",
            )
        (into / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, into / file.path)
