"""Push an image of the engine, again after failures that may pass, and confirm that the registry has it."""

from __future__ import annotations

import json
import re

from flagrelease.contract.context import Context
from flagrelease.errors import RegistryUnavailable, UpstreamRefused
from flagrelease.packaging.base_image import counted
from flagrelease.ports.container_runner import LocalImage
from flagrelease.ports.docker.engine import Pushed
from flagrelease.ports.retry import Backoff, retry

BACKOFF = Backoff(first=1.0, most=60.0, budget=600.0)
_BUSY = re.compile(r"(?i)too ?many ?requests|\b429\b")


def push(context: Context, where: str, image: LocalImage, tag: str) -> tuple[str, int]:
    """Push to the repository `where`, under a tag that can never name a different image. Its digest, and the bytes that
    were sent."""
    docker, clock = context.ports.docker, context.ports.clock
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
    context.meter.moved = before + _sent(context, where, image, pushed)
    docker.untag(f"{where}:{tag}")
    return pushed.digest, context.meter.moved - before


def _asked_to_wait(context: Context, where: str) -> float | None:
    """The wait that a busy registry asks for, in seconds. Docker does not report it, but the registry tells us as well;
    a short one is over when this returns."""
    try:
        context.ports.registry.check_push(where)
    except RegistryUnavailable as error:
        return error.after
    return None


def _sent(context: Context, where: str, image: LocalImage, pushed: Pushed) -> int:
    """Bytes sent to the registry. Docker counts uncompressed bytes, so use the compressed sizes of the manifest."""
    manifest = json.loads(context.ports.registry.manifest(where, pushed.digest).body)
    sizes = [int(layer["size"]) for layer in manifest["layers"]]
    return sum(
        size
        for layer, size in zip(image.layers, sizes, strict=True)
        if layer.removeprefix("sha256:")[:12] in pushed.layers
    )
