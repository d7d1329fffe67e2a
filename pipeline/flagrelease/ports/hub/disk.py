"""Hash, move into place and quarantine fetched files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from flagrelease.errors import NoSpace
from flagrelease.store.files import free_bytes, sync_folder, translate_disk_errors

BLOCK = 1 << 20
_SPARE_BYTES = 64 << 20


def sha256_of(path: Path) -> tuple[int, str]:
    """Size and sha256 (hex) of the file as it is on disk."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def git_blob(path: Path) -> str:
    """The id (40 hex digits) that git gives the file's content."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def land(incoming: Path, target: Path) -> None:
    """Move a verified file to its final name, durably: it survives a power loss."""
    with translate_disk_errors(f"writing {target.name}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        incoming.chmod(0o644)
        handle = os.open(incoming, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        incoming.replace(target)
        sync_folder(target.parent)


def quarantine(bad: Path, folder: Path, name: str, sha256: str) -> Path:
    """Move a file that must not be used into `folder` and return its new path."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{name.replace('/', '__')[-200:]}.{sha256[:12]}"
    bad.replace(kept)
    return kept


def need_space(folder: Path, needed: int, what: str) -> None:
    """Raise NoSpace if `needed` bytes will not fit, before anything is written."""
    free = free_bytes(folder)
    if needed + _SPARE_BYTES > free:
        raise NoSpace(
            f"no space for {what}",
            why=f"{(needed + _SPARE_BYTES) / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free under {folder}",
            hint="free some space, or choose --workspace DIR on a larger disk",
        )
