"""A small image in a registry, and a finished cell that has it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import support.finished_cell as given
from flagrelease.config.targets import Target
from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.ports.registry import MANIFEST_TYPE, OciRegistry
from flagrelease.stages.card import record
from flagrelease.stages.card.files import README, RECORD
from support.contexts import Shown, after

LAYER = b"layer " * 40_000
"""The one layer of the image: 240 kB."""


def push(registry: OciRegistry, repository: str, layer: bytes = LAYER) -> str:
    """Push an image by digest, without a tag; its digest."""
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}}).encode()
    parts = [
        {"mediaType": kind, "digest": registry.push_blob(repository, data), "size": len(data)}
        for kind, data in (
            ("application/vnd.oci.image.config.v1+json", config),
            ("application/vnd.oci.image.layer.v1.tar", layer),
        )
    ]
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": parts[0], "layers": parts[1:]}
    body = json.dumps(manifest).encode()
    return registry.put_manifest(repository, f"sha256:{hashlib.sha256(body).hexdigest()}", body, MANIFEST_TYPE)


def finished(root: Path, registry: OciRegistry, repository: str, *, layer: bytes = LAYER, **made: Any) -> Context:
    """A context after `card`, of a cell whose image is pushed to the repository. The card has one line."""
    pushed = given.image(repository=repository, digest=push(registry, repository, layer))
    context = given.context(root, registry, image=pushed, smoke=given.smoke(pushed.reference), **made)
    context = replace(context, progress=Shown())
    kept = context.evidence.put
    written = record.dumps(record.build(given.job(), context.finished, rendered_by="0" * 64))
    card = results.Card(
        readme=kept(README, b"# A card\n"),
        images=(kept("scores.png", b"\x89PNG"),),
        lint=(),
        evidence=(kept(RECORD, written),),
    )
    return after(context, card=card)


def job(targets: Mapping[str, Target]) -> Job:
    """The finished cell's job, with targets."""
    made = given.job()
    return replace(made, matrix=replace(made.matrix, targets=targets))
