"""Manage a weights folder, which is complete once its manifest exists next to it.

The manifest is written last. It has what the file system says of each verified file, so that later checks are cheap and
detect changed files; the smoke stage reads all of them again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from flagrelease.config.lockfile import LockedFile
from flagrelease.ports.progress import Progress
from flagrelease.store.files import translate_disk_errors, write_atomic
from flagrelease.store.workspace import manifest_of

_HASHERS = 4


@dataclass(frozen=True, kw_only=True)
class VerifiedFile:
    """A verified file on disk."""

    path: str
    size: int
    mtime: int
    """Nanoseconds since the epoch."""
    sha256: str
    inode: int = 0
    """0 in manifests of older versions, as is `ctime`."""
    ctime: int = 0
    """Of the last change of content or metadata, which no program can set; nanoseconds since the epoch."""

    def unchanged(self, status: os.stat_result) -> bool:
        """Whether the file has not been written since."""
        known = (self.inode, self.ctime) in ((0, 0), (status.st_ino, status.st_ctime_ns))
        return known and (self.size, self.mtime) == (status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The verified contents of a weights folder."""

    digest: str
    files: tuple[VerifiedFile, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the packages that converted the files; empty for fetched files."""

    @property
    def locked(self) -> tuple[LockedFile, ...]:
        return tuple(LockedFile(path=file.path, size=file.size, sha256=file.sha256) for file in self.files)


def read(folder: Path) -> Manifest | None:
    """The manifest of `folder`, or None if it is missing or unreadable."""
    try:
        return msgspec.json.decode(manifest_of(folder).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None


def trouble(folder: Path, digest: str, files: Sequence[LockedFile]) -> str:
    """Why the folder cannot be assumed to contain exactly `files`; empty if it can. Reads only the manifest and file
    metadata."""
    if not manifest_of(folder).exists():
        return "the weights are missing" if not folder.exists() else "the weights are incomplete"
    manifest = read(folder)
    if manifest is None:
        return "the manifest of the weights cannot be read"
    if manifest.digest != digest:
        return "the manifest belongs to other weights"
    present = dict(_below(folder))
    for verified in manifest.files:
        if (status := present.pop(verified.path, None)) is None:
            return f"{verified.path} is missing"
        if not verified.unchanged(status):
            return f"{verified.path} has changed"
    if {(verified.path, verified.sha256) for verified in manifest.files} != {
        (file.path, file.sha256) for file in files
    }:
        return "the manifest belongs to other weights"
    return f"{min(present)} does not belong to the weights" if present else ""


def set_aside(folder: Path, files: Sequence[LockedFile], progress: Progress) -> None:
    """Hash the files of a folder without a valid manifest, and quarantine those that differ from the lock."""
    from flagrelease.ports.hub.disk import quarantine

    wanted = {file.path: file for file in files}
    with translate_disk_errors("setting damaged weights aside"):
        for file in hashed(folder, progress):
            path = folder / file.path
            if wanted.get(file.path) != file or path.is_symlink():
                target = quarantine(path, folder.with_name(f"{folder.name}.quarantine"), file.path, file.sha256)
                what = "is damaged" if file.path in wanted else "does not belong to the weights"
                progress.note(f"{file.path} {what}; moved it to {target}")


def hashed(folder: Path, progress: Progress) -> list[LockedFile]:
    """Hash all files below the folder; sorted by path."""
    from concurrent.futures import ThreadPoolExecutor

    from flagrelease.ports.hub.disk import sha256_of

    paths = sorted(path for path, _ in _below(folder))
    if paths:
        progress.doing(f"verifying {len(paths)} existing files")
    with ThreadPoolExecutor(_HASHERS) as pool:
        sums = pool.map(lambda path: sha256_of(folder / path), paths)
        return [LockedFile(path=path, size=size, sha256=sha) for path, (size, sha) in zip(paths, sums, strict=True)]


def seal(folder: Path, digest: str, files: Sequence[LockedFile], versions: Mapping[str, str] | None = None) -> None:
    """Write the manifest of verified `files`."""
    verified = []
    for file in files:
        status = (folder / file.path).stat()
        verified.append(
            VerifiedFile(
                path=file.path,
                size=file.size,
                mtime=status.st_mtime_ns,
                sha256=file.sha256,
                inode=status.st_ino,
                ctime=status.st_ctime_ns,
            )
        )
    manifest = Manifest(digest=digest, files=tuple(verified), versions=versions or {})
    write_atomic(manifest_of(folder), msgspec.json.format(msgspec.json.encode(manifest), indent=1))


def _below(folder: Path) -> list[tuple[str, os.stat_result]]:
    entries = []
    for base, _, names in os.walk(folder):
        for name in names:
            path = Path(base) / name
            entries.append((path.relative_to(folder).as_posix(), path.lstat()))
    return entries
