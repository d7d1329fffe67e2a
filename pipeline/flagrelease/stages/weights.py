"""Weights: verified model files in a folder named by what is in it.

WEIGHTS/MODEL/DIGEST is complete when WEIGHTS/MODEL/DIGEST.json is there: the manifest is written last, and holds
size and time of each verified file, so that looking again is cheap and a changed file is noticed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from flagrelease import results
from flagrelease.errors import ConfigError
from flagrelease.hold import wait_for
from flagrelease.lock import LockedFile, LockedModel, set_digest
from flagrelease.stage import Job, Stage
from flagrelease.workspace import telling_space, write_atomic

if TYPE_CHECKING:
    from flagrelease.ports.progress import Progress
    from flagrelease.stage import Context, Look

_DIGEST_LETTERS = 12
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
    digest: str
    files: tuple[Seen, ...]


def locked(job: Job) -> LockedModel:
    """The model's entry in matrix.lock. Raises ConfigError where there is none, or it is not of this matrix."""
    name = job.cell.model_name
    job.lock.require("models", name)
    model = job.lock.models[name]
    if model.source != job.cell.model.source:
        why = f"matrix.yaml says {job.cell.model.source}, matrix.lock {model.source}"
        raise ConfigError(f"models.{name} is locked for another source", why=why, hint="run `flagrelease lock`")
    if set_digest(model.files) != model.digest:
        why = "the set digest is not that of the files"
        raise ConfigError(f"models.{name} in matrix.lock was edited", why=why, hint="run `flagrelease lock`")
    return model


def inputs(job: Job) -> Mapping[str, object]:
    model = locked(job)
    return {"source": model.source, "revision": model.revision, "digest": model.digest}


def run(job: Job, context: Context) -> results.Weights:
    model = locked(job)
    digest = model.digest.removeprefix("sha256:")[:_DIGEST_LETTERS]
    folder = f"{job.cell.model_name}/{digest}"
    into = context.workspace.weights / folder
    hold = context.workspace.locks / f"weights-{job.cell.model_name}-{digest}.lock"

    def waiting(holder: str) -> None:
        context.progress.doing(f"waiting for the same weights, {holder}")

    # Cells of several chips share the weights of a model.
    with wait_for(hold, context.run_id, waiting, context.ports.clock.sleep):
        moved = 0
        if trouble(into, model.digest, model.files):
            _manifest_of(into).unlink(missing_ok=True)
            _set_aside(into, model.files, context.progress)
            moved = context.ports.hubs.fetch(model, into, context.progress, context.meter)
            _seal(into, model)
    return results.Weights(
        folder=folder,
        source=model.source,
        revision=model.revision,
        digest=model.digest,
        files=model.files,
        bytes_moved=moved,
    )


def intact(result: results.Weights, look: Look) -> str:
    return trouble(look.workspace.weights / result.folder, result.digest, result.files)


def trouble(folder: Path, digest: str, files: Sequence[LockedFile]) -> str:
    """Why the folder is not known to hold exactly `files`, in a few words; empty when it is. Reads no file but the
    manifest."""
    try:
        manifest = msgspec.json.decode(_manifest_of(folder).read_bytes(), type=Manifest)
    except FileNotFoundError:
        return "the weights are gone" if not folder.exists() else "the weights are not complete"
    except (OSError, msgspec.DecodeError):
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


def _set_aside(folder: Path, files: Sequence[LockedFile], progress: Progress) -> None:
    """Hash what is there without a valid manifest, and move away what is not as locked."""
    from flagrelease.ports.hub.disk import quarantine, sha256_of

    wanted = {file.path: (file.size, file.sha256) for file in files}
    there = [path for path, _ in _below(folder)]
    if there:
        progress.doing(f"checking {len(there)} files that are here already")
    with ThreadPoolExecutor(_HASHERS) as pool, telling_space("setting damaged weights aside"):
        for path, found in zip(there, pool.map(lambda path: sha256_of(folder / path), there), strict=True):
            if wanted.get(path) != found or (folder / path).is_symlink():
                kept = quarantine(folder / path, folder.with_name(f"{folder.name}.quarantine"), path, found[1])
                what = "is damaged" if path in wanted else "does not belong to the weights"
                progress.note(f"{path} {what}; it was moved to {kept}")


def _seal(folder: Path, model: LockedModel) -> None:
    seen = []
    for file in model.files:
        status = (folder / file.path).stat()
        seen.append(Seen(path=file.path, size=file.size, mtime=status.st_mtime_ns, sha256=file.sha256))
    manifest = Manifest(digest=model.digest, files=tuple(seen))
    write_atomic(_manifest_of(folder), msgspec.json.format(msgspec.json.encode(manifest), indent=1))


def _manifest_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _below(folder: Path) -> list[tuple[str, os.stat_result]]:
    found = []
    for base, _, names in os.walk(folder):
        for name in names:
            path = Path(base) / name
            found.append((path.relative_to(folder).as_posix(), path.lstat()))
    return found


STAGE = Stage(
    name="weights",
    doing="fetching weights",
    result=results.Weights,
    inputs=inputs,
    run=run,
    intact=intact,
)
