"""Assemble an image: the base's layers and own ones, written here and sent to the registry. Docker builds nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import msgspec

from flagrelease.contract import code_version
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.errors import UpstreamRefused
from flagrelease.ports.progress import Count
from flagrelease.ports.registry import PIECE
from flagrelease.ports.registry.transfer import Transfer
from flagrelease.ports.retry import retry
from flagrelease.recipe.image_paths import BUNDLE, DOCKER
from flagrelease.stages.image import base_python, build_context, compressed, layer, old_images, wheel_tree
from flagrelease.stages.image.base import Base
from flagrelease.stages.image.documents import Documents, Part
from flagrelease.stages.image.push import BACKOFF
from flagrelease.store.digests import file_sha256, sha256_of
from flagrelease.store.files import translate_disk_errors, unfinished, write_atomic

__all__ = ["parts", "send"]

_PLACES = {"programs": "", "config": f"{DOCKER.config}/", BUNDLE: f"{DOCKER.bundle}/"}
"""By folder of the build context, where its files are in the image."""
_CODE = (layer, compressed, wheel_tree, base_python)


def parts(job: Job, context: Context, plan: build_context.Plan, base: Base, found: base_python.Facts) -> list[Part]:
    """The layers on top of the base, in the order of how often they change: what comes with new kernels is the last.

    Raises NoSpace, CommandFailed, UpstreamRefused.
    """
    if not compressed.usual():
        context.progress.note("this machine's zlib compresses unlike others: the image gets another digest here")
    known = {path.lstrip("/"): layer.Folder(mode=m, uid=u, gid=g) for path, (m, u, g) in found.folders.items()}
    own = {f"programs{path}" for path in build_context.programs(job.cell)} | {"config/serve.yaml"}
    folder = context.workspace.scratch(job.cell.slug, "image")
    made = [Part(name="packages", layer=_packages(job, context, plan, base, found, known))]
    context.progress.doing("writing layers")
    for name, wanted in (("programs and configuration", True), ("kernels and manifest", False)):
        files = {path: file for path, file in plan.files.items() if path != "Dockerfile" and (path in own) is wanted}
        entries = layer.with_folders(_placed(files), known)
        made.append(Part(name=name, layer=layer.write(entries, folder / f"{name.partition(' ')[0]}.tar.gz")))
    return made


def _placed(files: Mapping[str, tuple[bytes, int]]) -> dict[str, layer.Entry]:
    """Files of the build context as entries of a layer."""
    entries: dict[str, layer.Entry] = {}
    for path, (content, mode) in files.items():
        folder, _, inner = path.partition("/")
        entries[f"{_PLACES[folder]}{inner}".lstrip("/")] = layer.File(content=content, mode=mode)
    return entries


def _packages(
    job: Job,
    context: Context,
    plan: build_context.Plan,
    base: Base,
    found: base_python.Facts,
    known: Mapping[str, layer.Folder],
) -> layer.Layer:
    """The layer of the Python packages, which is kept: it takes most of the time."""
    wheels = [wheel.sha256 for wheel in plan.wheels.installed]
    code = [code_version.of_module(module.__name__) for module in _CODE]
    name = sha256_of(msgspec.json.encode([base.id, msgspec.to_builtins(found), wheels, code]))[:32]
    target = context.workspace.layers / f"{name}.tar.gz"
    old_images.remove_layers(target.parent)
    if (kept := _kept(target)) is not None:
        os.utime(target)
        return kept
    context.progress.doing("unpacking the packages")
    with (
        translate_disk_errors("unpacking the packages"),
        tempfile.TemporaryDirectory(
            dir=context.workspace.scratch(job.cell.slug, "image"), prefix=unfinished()
        ) as scratch,
    ):
        folder = Path(scratch, "packages")
        folder.mkdir(mode=0o755)
        wheel_tree.unpack(plan.wheels, folder, found.executable)
        entries: dict[str, layer.Entry] = wheel_tree.entries(folder, DOCKER.packages[1:])
        for path, content in base_python.bytecode(job, context, folder, Path(scratch, "bytecode.tar")).items():
            entries[f"{DOCKER.packages[1:]}/{path}"] = layer.File(content=content)
        # A .pth file instead of PYTHONPATH, which engines do not pass to all workers.
        entries[f"{found.site[1:]}/{base_python.PTH}"] = layer.File(content=f"{DOCKER.packages}\n".encode())
        entries[f"{DOCKER.programs[1:]}/python"] = layer.Link(target=found.command)
        context.progress.doing("compressing the packages")
        made = layer.write(layer.with_folders(entries, known), target)
    write_atomic(target.with_suffix(".json"), msgspec.json.encode({**asdict(made), "path": target.name}))
    return made


def _kept(target: Path) -> layer.Layer | None:
    """The layer in `target`; None if it is missing or damaged."""
    try:
        written = msgspec.json.decode(target.with_suffix(".json").read_bytes(), type=dict[str, str | int])
        known = msgspec.convert({**written, "path": target}, layer.Layer)
        return known if f"sha256:{file_sha256(target)}" == known.digest else None
    except (OSError, msgspec.DecodeError):
        return None


def send(job: Job, context: Context, base: Base, made: list[Part], documents: Documents) -> int:
    """Send what the registry does not have, and confirm that it has the image. The number of bytes that were sent.

    Raises UpstreamRefused, RegistryDenied, RegistryUnavailable.
    """
    registry, where = context.ports.registry, job.repository
    upload = _Upload(job, context, base)

    def attempt() -> str | None:
        with context.meter.waiting():
            if registry.digest(where, documents.digest) is None:
                upload.layers(made)
                upload.small(documents.config)
                registry.put_manifest(
                    where, old_images.build_tag(documents.digest), documents.manifest, documents.media_type
                )
                upload.moved(len(documents.manifest))
            return registry.digest(where, documents.digest)

    # The registry keeps complete layers, so a retry only sends the missing ones.
    confirmed = retry(attempt, BACKOFF, context.ports.clock, context.progress.note)
    if confirmed != documents.digest:
        raise UpstreamRefused(
            f"the registry does not have the image pushed to {where}",
            why=f"pushed {documents.digest}, found {confirmed or 'nothing'}",
            hint="a proxy between this machine and the registry changes manifests; do not publish through it",
        )
    return upload.sent


class _Upload:
    """The way of an image's parts to the registry."""

    def __init__(self, job: Job, context: Context, base: Base) -> None:
        self._registry, self._where = context.ports.registry, job.repository
        self._context, self._base = context, base
        self.sent = 0
        self._transfer = Transfer(
            source=self._registry,
            source_repository=base.repository,
            target=self._registry,
            target_repository=job.repository,
            clock=context.ports.clock,
            moved=self.moved,
            note=context.progress.note,
        )

    def moved(self, count: int) -> None:
        self.sent += count
        self._context.meter.moved += count
        self._context.progress.doing("pushing", Count(self.sent, None, "B"))

    def layers(self, made: list[Part]) -> None:
        self._context.progress.doing("pushing")
        for each in self._base.manifest["layers"]:
            # A layer that may not be redistributed has an address of its own, which the manifest names.
            if not each.get("urls"):
                self._transfer.blob(str(each["digest"]), int(each["size"]))
        for part in made:
            self._layer(part.layer)

    def _layer(self, one: layer.Layer) -> None:
        if self._registry.has_blob(self._where, one.digest):
            return
        retry(
            lambda: self._registry.write_blob(self._where, one.digest, _pieces(one.path)),
            self._transfer.backoff,
            self._context.ports.clock,
            self._context.progress.note,
        )
        self.moved(one.size)

    def small(self, data: bytes) -> None:
        if not self._registry.has_blob(self._where, f"sha256:{sha256_of(data)}"):
            self._registry.push_blob(self._where, data)
            self.moved(len(data))


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while piece := stream.read(PIECE):
            yield piece
