"""Remove from this host what earlier runs left there. The registry keeps every image that was pushed."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from flagrelease.contract import results
from flagrelease.store.ledger import Ledger

if TYPE_CHECKING:
    from flagrelease.ports.docker.engine import Docker

_OURS = ("io.flagos.part", "io.flagos.stack")
"""Labels of what earlier versions built here: of the first stage of the Dockerfile, and of images."""
_KEPT_SECONDS = 24 * 3600
"""Until then, an image without a name may be that of somebody who is still building."""
_LAYERS_KEPT_SECONDS = 30 * 24 * 3600


def build_tag(digest: str) -> str:
    """The tag under which the image with this digest or id is pushed, so that it never names another one."""
    return f"build-{digest.removeprefix('sha256:')[:12]}"


def remove(docker: Docker, ledger: Ledger, say: Callable[[str], None], *, kept_seconds: float = _KEPT_SECONDS) -> None:
    """Remove the names of images that the ledger has replaced, and old images without a name.

    The caller is the only run on this machine: another one may be serving them.
    """
    made: dict[str, list[results.Image]] = {}
    for entry in ledger.entries():
        if entry.stage == results.IMAGE.stage and entry.state == "done":
            with suppress(msgspec.ValidationError):  # an entry of an earlier version
                made.setdefault(entry.cell, []).append(results.IMAGE.decode(entry.result))
    needed = {images[-1].image_id for images in made.values()}
    old = [image for images in made.values() for image in images[:-1] if image.image_id not in needed]
    for repository in sorted({image.repository for image in old}):
        names = {f"{repository}:{build_tag(image.image_id)}" for image in old}
        names |= {f"{repository}@{image.digest}" for image in old}
        for name in sorted(names.intersection((*docker.tags(repository), *docker.digests(repository)))):
            docker.untag(name)
    if count := docker.remove_untagged(_OURS, before=_ago(kept_seconds)):
        say(f"removed {count} images without a name that earlier builds left")


def remove_layers(folder: Path) -> None:
    """Remove the layers in `folder` that no image was made with for a month."""
    before = _ago(_LAYERS_KEPT_SECONDS)
    for path in folder.glob("*.tar.gz"):
        if path.stat().st_mtime < before:
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def _ago(seconds: float) -> float:
    """The time so many seconds ago. A clock that jumps costs the work of making something again."""
    return time.time() - seconds
