"""The base image as a registry has it: what the image is made of is read there, and not from Docker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flagrelease.errors import RegistryUnavailable, UpstreamRefused
from flagrelease.packaging.base_image import absent_base, locked_base, registry_name, repository_of
from flagrelease.ports.registry.manifests import Manifest
from flagrelease.stages.image.old_images import build_tag
from flagrelease.stages.image.push import push

if TYPE_CHECKING:
    from flagrelease.contract.context import Context
    from flagrelease.contract.job import Job

__all__ = ["Base", "find"]

_SYSTEM = ("linux", "amd64")
"""The operating system and processor of the packages that are added."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base image in a registry."""

    reference: str
    """Its name, with the digest if it is locked."""
    id: str
    """The digest of its configuration, which Docker calls the image's id."""
    repository: str
    """HOST/NAME that its layers are read from."""
    manifest: Mapping[str, Any]
    """Its manifest."""
    media_type: str
    """That of the manifest."""
    config: Mapping[str, Any]
    """Its configuration."""
    sent: int = 0
    """Bytes that were sent to get it into that registry."""


def find(job: Job, context: Context) -> Base:
    """The job's base image: where it is locked, else in the registry of the releases, to which the engine's image is
    pushed once.

    Raises EnvironmentFault if it is in neither place, UpstreamRefused for one of another system or that is damaged, and
    the registries' errors.
    """
    context.progress.doing("reading the base image")
    locked = locked_base(job)
    if not locked.digest:
        return _from_engine(job, context, locked.base)
    name = repository_of(locked.base)
    reference = f"{name}@{locked.digest}"
    try:
        with context.meter.waiting():
            if context.ports.registry.digest(name, locked.digest) is None:
                raise UpstreamRefused(f"the registry does not have {reference}", hint="run `flagrelease lock`")
    except (RegistryUnavailable, UpstreamRefused) as error:
        if context.ports.docker.image(reference) is None:
            raise
        what = f"{error.line()}; the base image on this machine is taken instead"
        context.progress.note(f"{what}, and as Docker compresses it, the release's image gets another digest")
        return _from_engine(job, context, reference)
    with context.meter.waiting():
        return _read(context, reference, name, locked.digest)


def _from_engine(job: Job, context: Context, reference: str) -> Base:
    image = context.ports.docker.image(reference)
    if image is None:
        raise absent_base(job)
    name = repository_of(reference.partition("@")[0])
    name = name.partition("/")[2] if registry_name(name) else name
    repository, tag, sent = f"{job.registry}/{name}", build_tag(image.id), 0
    with context.meter.waiting():
        digest = context.ports.registry.digest(repository, tag)
    if digest is None:
        digest, sent = push(context, repository, image, tag)
    with context.meter.waiting():
        found = _read(context, reference, repository, digest)
    if found.id != image.id:
        raise UpstreamRefused(
            f"{repository}:{tag} is another image than {reference}",
            why=f"its id is {found.id[:19]}…, not {image.id[:19]}…",
            hint="remove that tag, and run again",
        )
    return replace(found, sent=sent)


def _read(context: Context, reference: str, repository: str, digest: str) -> Base:
    """Read manifest and configuration, which the registry's client verifies by their digests."""
    registry = context.ports.registry
    manifest = registry.manifest(repository, digest)
    document = json.loads(manifest.body)
    if "manifests" in document:
        manifest = registry.manifest(repository, _of_system(reference, document))
        document = json.loads(manifest.body)
    if not isinstance(document.get("config"), dict) or "layers" not in document:
        raise UpstreamRefused(f"{reference} is not an image", why="its manifest names no configuration and layers")
    identity = str(document["config"]["digest"])
    return _checked(reference, repository, manifest, identity, registry.blob(repository, identity))


def _of_system(reference: str, index: Mapping[str, Any]) -> str:
    """The digest of the image in the index for the system of the packages."""
    offered = []
    for each in index["manifests"]:
        platform = each.get("platform") or {}
        system = (platform.get("os"), platform.get("architecture"))
        if system == _SYSTEM:
            return str(each["digest"])
        offered.append("/".join(str(part) for part in system))
    raise _other_system(reference, ", ".join(offered) or "no image")


def _other_system(reference: str, offered: str) -> UpstreamRefused:
    return UpstreamRefused(
        f"the base image {reference} is not for {'/'.join(_SYSTEM)}",
        why=f"it has {offered}",
        hint="name another base image in matrix.yaml, then run `flagrelease lock`",
    )


def _checked(reference: str, repository: str, manifest: Manifest, identity: str, config: bytes) -> Base:
    document, layers = json.loads(manifest.body), []
    try:
        content = json.loads(config)
        layers = content["rootfs"]["diff_ids"]
        system = (content["os"], content["architecture"])
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise UpstreamRefused(f"the configuration of {reference} is not that of an image", why=why) from None
    if system != _SYSTEM:
        raise _other_system(reference, "/".join(str(part) for part in system))
    if len(layers) != len(document["layers"]):
        why = f"{len(document['layers'])} in its manifest, {len(layers)} in its configuration"
        raise UpstreamRefused(f"{reference} has two different numbers of layers", why=why)
    return Base(
        reference=reference,
        id=identity,
        repository=repository,
        manifest=document,
        media_type=manifest.media_type,
        config=content,
    )
