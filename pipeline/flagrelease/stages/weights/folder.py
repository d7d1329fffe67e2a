"""A folder of weights: complete when the manifest beside it is there.

The manifest is written last, and holds size and time of each verified file, so that looking again is cheap and a
changed file is noticed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from flagrelease.config.lockfile import LockedFile
from flagrelease.ports.progress import Progress
from flagrelease.store.files import translate_disk_errors, write_atomic

_HASHERS = 4


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A verified file as it lay on disk; `mtime` in nanoseconds."""

    path: str
    size: int
    mtime: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`versions` are those of the packages that made the files, where they were not fetched."""

    digest: str
    files: tuple[Seen, ...]
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def locked(self) -> tuple[LockedFile, ...]:
        return tuple(LockedFile(path=file.path, size=file.size, sha256=file.sha256) for file in self.files)


def read(folder: Path) -> Manifest | None:
    """Nothing where there is none that can be read."""
    try:
        return msgspec.json.decode(manifest_of(folder).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None


def trouble(folder: Path, digest: str, files: Sequence[LockedFile]) -> str:
    """Why the folder is not known to hold exactly `files`, in a few words; empty when it is. Reads no file but the
    manifest."""
    if not manifest_of(folder).exists():
        return "the weights are gone" if not folder.exists() else "the weights are not complete"
    manifest = read(folder)
    if manifest is None:
        return "the manifest of the weights cannot be read"
    if manifest.digest != digest:
        return "the manifest is of other weights"
    there = {path: (status.st_size, status.st_mtime_ns) for path, status in _below(folder)}
    for seen in manifest.files:
        if (found := there.pop(seen.path, None)) is None:
            return f"{seen.path} is gone"
        if found != (seen.size, seen.mtime):
            return f"{seen.path} has changed"
    if {(seen.path, seen.sha256) for seen in manifest.files} != {(file.path, file.sha256) for file in files}:
        return "the manifest is of other weights"
    return f"{min(there)} does not belong to the weights" if there else ""


def set_aside(folder: Path, files: Sequence[LockedFile], progress: Progress) -> None:
    """Hash what is there without a valid manifest, and move away what is not as locked."""
    from flagrelease.ports.hub.disk import quarantine

    wanted = {file.path: file for file in files}
    with translate_disk_errors("setting damaged weights aside"):
        for found in hashed(folder, progress):
            path = folder / found.path
            if wanted.get(found.path) != found or path.is_symlink():
                kept = quarantine(path, folder.with_name(f"{folder.name}.quarantine"), found.path, found.sha256)
                what = "is damaged" if found.path in wanted else "does not belong to the weights"
                progress.note(f"{found.path} {what}; it was moved to {kept}")


def hashed(folder: Path, progress: Progress) -> list[LockedFile]:
    """Every file below the folder as it is on disk now, sorted by path."""
    from flagrelease.ports.hub.disk import sha256_of

    there = sorted(path for path, _ in _below(folder))
    if there:
        progress.doing(f"checking {len(there)} files that are here already")
    with ThreadPoolExecutor(_HASHERS) as pool:
        sums = pool.map(lambda path: sha256_of(folder / path), there)
        return [LockedFile(path=path, size=size, sha256=sha) for path, (size, sha) in zip(there, sums, strict=True)]


def seal(folder: Path, digest: str, files: Sequence[LockedFile], versions: Mapping[str, str] | None = None) -> None:
    """Write the manifest of verified `files`."""
    seen = []
    for file in files:
        status = (folder / file.path).stat()
        seen.append(Seen(path=file.path, size=file.size, mtime=status.st_mtime_ns, sha256=file.sha256))
    manifest = Manifest(digest=digest, files=tuple(seen), versions=versions or {})
    write_atomic(manifest_of(folder), msgspec.json.format(msgspec.json.encode(manifest), indent=1))


def manifest_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _below(folder: Path) -> list[tuple[str, os.stat_result]]:
    found = []
    for base, _, names in os.walk(folder):
        for name in names:
            path = Path(base) / name
            found.append((path.relative_to(folder).as_posix(), path.lstat()))
    return found
