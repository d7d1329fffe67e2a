"""The files of a bundle that are written from its record: instructions, lists of images and of weights. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from flagrelease.recipe.user_commands import docker_run, model_dir
from flagrelease.stages.card.record import Record

__all__ = ["DOCKER", "IMAGE", "IMAGES", "README", "RELEASE", "SUMS", "WEIGHTS", "docker_manifest", "texts"]

IMAGE, RELEASE, WEIGHTS = "image", "release", "weights"
"""Folders of a bundle: the OCI layout, the release folder, and the weights."""
README, IMAGES, SUMS = "README.md", "IMAGES", "weights.sha256"
DOCKER = "manifest.json"
"""The file in the OCI layout that `docker load` reads."""

_README = """# {title}: {tag}

A published release of {cell} in one folder. Nothing below needs a network.

## Verify

    flagrelease verify . --key release.pub

`release.pub` is the public key of whoever released it; get it by another way than this folder. Without `--key`,
the folder is checked against itself only.

## Load the image

With Docker:

    tar -C {image} -cf - . | docker load

With containerd (`ctr -n k8s.io`), or into a registry of yours:

    tar -C {image} -cf - . | ctr images import -
    skopeo copy oci:{image}:{tag} docker://REGISTRY/NAME:{tag}

`{images}` lists every image of this release; only the first is needed to run it, and the layers of the base are part
of it.

## Check the weights

    cd {folder} && sha256sum --check {sums}

{weights}

## Run

{run}

The card with all commands and results is `{release}/{tag}/README.md`, the evidence is beside it.
"""
_WITH = "The files are in `{weights}/`: copy them to `{folder}` first."
_WITHOUT = "The files are not in this folder. Copy them to `{folder}`; they come from {source}, revision {revision}."


def texts(record: Record, tag: str, *, weights: bool) -> dict[str, bytes]:
    """The files by name; `weights`: whether the bundle has the weights."""
    image, model, folder = record.image, record.model, model_dir(record.model)
    where = (_WITH if weights else _WITHOUT).format(
        weights=WEIGHTS, folder=folder, source=record.weights.source, revision=record.weights.revision
    )
    # Docker knows an image that was loaded by its tag only.
    run = docker_run(record.smoke.docker_run).replace(image.reference, f"{image.repository}:{tag}")
    readme = _README.format(
        title=model.title,
        cell=record.cell,
        tag=tag,
        image=IMAGE,
        images=IMAGES,
        release=RELEASE,
        folder=shlex.quote(folder),
        sums=f'"$OLDPWD/{SUMS}"',
        weights=where,
        run="\n".join(f"    {line}" for line in run.splitlines()),
    )
    base = f"{image.base}@{digest}" if (digest := _base(record)) else f"{image.base} (id {image.base_id})"
    sums = sorted(f"{file.sha256}  {file.path}\n" for file in record.weights.files)
    return {
        README: readme.encode(),
        IMAGES: f"{image.repository}:{tag}@{image.digest}\nbase: {base}\n".encode(),
        SUMS: "".join(sums).encode(),
    }


def _base(record: Record) -> str:
    return record.pins.chip.digest if record.pins.chip else ""


def docker_manifest(manifest: Mapping[str, Any], name: str) -> bytes | None:
    """The file that makes an OCI layout an archive for `docker load`; None for an index of several platforms."""
    if "config" not in manifest:
        return None

    def path(blob: Mapping[str, Any]) -> str:
        return f"blobs/{str(blob['digest']).replace(':', '/')}"

    layers = [path(layer) for layer in manifest.get("layers", ())]
    made = [{"Config": path(manifest["config"]), "RepoTags": [name], "Layers": layers}]
    return json.dumps(made, sort_keys=True).encode() + b"\n"
