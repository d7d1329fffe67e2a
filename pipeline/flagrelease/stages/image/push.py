"""Push the image, again after failures that may pass, and confirm that the registry has it."""

from __future__ import annotations

import json
import re

from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.errors import RegistryUnavailable, UpstreamRefused
from flagrelease.packaging.base_image import counted
from flagrelease.ports.container_runner import LocalImage
from flagrelease.ports.docker.engine import Pushed
from flagrelease.ports.retry import Backoff, retry

BACKOFF = Backoff(first=1.0, most=60.0, budget=600.0)
_BUSY = re.compile(r"(?i)too ?many ?requests|\b429\b")


def push(job: Job, context: Context, image: LocalImage, tag: str) -> tuple[str, int]:
    """Push under a tag derived from the image id, so that the tag can never name a different image."""
    docker, clock = context.ports.docker, context.ports.clock
    where = job.repository
    docker.tag(image.id, where, tag)
    before = context.meter.moved
    context.progress.doing("pushing")

    def attempt() -> tuple[Pushed, str | None]:
        with context.meter.waiting():
            try:
                pushed = docker.push(where, tag, counted(context, "pushing"), context.progress.note)
            except RegistryUnavailable as error:
                if _BUSY.search(error.why) and error.after is None:
                    error.after = _asked_to_wait(context, where)
                raise
            return pushed, context.ports.registry.digest(where, pushed.digest)

    # The registry keeps complete layers, so a retry only sends the missing ones.
    pushed, confirmed = retry(attempt, BACKOFF, clock, context.progress.note)
    if confirmed != pushed.digest:
        raise UpstreamRefused(
            f"the registry does not have the image pushed to {where}",
            why=f"pushed {pushed.digest}, found {confirmed or 'nothing'}",
            hint="a proxy between this machine and the registry changes manifests; do not publish through it",
        )
    context.meter.moved = before + _sent(job, context, image, pushed)
    return pushed.digest, context.meter.moved - before


def _asked_to_wait(context: Context, where: str) -> float | None:
    """The wait that a busy registry asks for, in seconds. Docker does not report it, but the registry tells us as well;
    a short one is over when this returns."""
    try:
        context.ports.registry.check_push(where)
    except RegistryUnavailable as error:
        return error.after
    return None


def _sent(job: Job, context: Context, image: LocalImage, pushed: Pushed) -> int:
    """Bytes sent to the registry. Docker counts uncompressed bytes, so use the compressed sizes of the manifest."""
    manifest = json.loads(context.ports.registry.manifest(job.repository, pushed.digest).body)
    sizes = [int(layer["size"]) for layer in manifest["layers"]]
    return sum(
        size
        for layer, size in zip(image.layers, sizes, strict=True)
        if layer.removeprefix("sha256:")[:12] in pushed.layers
    )
