"""Where a run keeps its files, and how it writes them: whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flagrelease.errors import EnvironmentFault, NoSpace

TEMPORARY = ".unfinished."
"""How the name of a file or folder begins that is not yet whole; the writer's PID follows."""


def unfinished() -> str:
    """The beginning of a temporary name of this process."""
    return f"{TEMPORARY}{os.getpid()}."


def abandoned(path: Path) -> bool:
    """Whether `path` is a temporary whose writer is dead."""
    pid = path.name.removeprefix(TEMPORARY).split(".")[0]
    return path.name.startswith(TEMPORARY) and pid.isdigit() and not Path(f"/proc/{pid}").exists()


@dataclass(frozen=True)
class Workspace:
    """The folder `.flagrelease` (or `--workspace`). Everything under it can be made again by running again."""

    root: Path

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.jsonl"

    @property
    def evidence(self) -> Path:
        return self.root / "evidence"

    @property
    def weights(self) -> Path:
        """Model folders, one a model and revision."""
        return self.root / "weights"

    @property
    def data(self) -> Path:
        """Downloaded benchmark data, by sha256."""
        return self.root / "data"

    @property
    def wheels(self) -> Path:
        """The wheelhouse, one folder a requirements digest."""
        return self.root / "wheels"

    @property
    def images(self) -> Path:
        """What takes the place of images where there are no containers."""
        return self.root / "images"

    def image(self, digest: str) -> Path:
        """The root folder of the image with this digest, there or not."""
        return self.images / digest.removeprefix("sha256:")[:32]

    @property
    def processes(self) -> Path:
        """What takes the place of containers: a folder each, gone when its process has ended."""
        return self.root / "processes"

    @property
    def kernels(self) -> Path:
        """Bundles of operators, by cell and content."""
        return self.root / "kernels"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def prefect(self) -> Path:
        return self.root / "prefect"

    @property
    def releases(self) -> Path:
        """What is published to the local release folder: releases/CHIP/MODEL/TAG."""
        return self.root / "releases"

    @property
    def drafts(self) -> Path:
        """Cards of cells that the gates kept from being published: drafts/CHIP/MODEL."""
        return self.root / "drafts"

    def scratch(self, cell: str, stage: str) -> Path:
        """A folder for a stage's unfinished work. It survives a kill, so that the next run resumes there."""
        path = self.root / "work" / cell / stage
        path.mkdir(parents=True, exist_ok=True)
        return path


@contextmanager
def telling_space(doing: str) -> Iterator[None]:
    """Raises NoSpace or EnvironmentFault, saying what was being written, in place of an OSError that means it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"no space left while {doing}",
                why=str(error.filename or error.strerror),
                hint="free some space and run again: what was finished is kept",
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS):
            raise EnvironmentFault(
                f"cannot write while {doing}", why=f"{error.strerror}: {error.filename}", hint="choose --workspace DIR"
            ) from error
        raise


def file_sha256(path: Path) -> str:
    """The sha256 (hex) of the bytes that are on disk now."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def free_bytes(folder: Path) -> int:
    """What is free on the disk of `folder`, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data`: a reader sees the old file or the new one. Raises NoSpace."""
    with telling_space(f"writing {path.name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=unfinished())
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(mode)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make a rename in `path` survive a power loss."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
