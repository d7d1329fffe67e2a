"""Make a writable overlay of a bundle's database and kernels; the bundle itself is a read-only image layer.

All workers of a container share one overlay: a table added by FlagGems or a kernel added by Triton is found by the
others.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from flagkernels.bundle.bundle import Bundle
from flagkernels.digests import no_space
from flagkernels.errors import ChipFault
from flagkernels.tuning import database

__all__ = ["Overlay", "prepare"]


@dataclass(frozen=True)
class Overlay:
    """A writable copy of a bundle's database and kernels."""

    path: Path
    environment: dict[str, str]
    """Variables that make FlagGems and Triton use it."""


def prepare(bundle: Bundle, root: Path | None = None) -> Overlay:
    """Return the bundle's overlay, creating it on first use; concurrent processes are safe.

    Raises DatabaseCorrupt if the bundle's database is damaged, NoSpace if the disk is full, ChipFault if the folder
    cannot be written."""
    root = root or _root()
    path = root / bundle.content[:16]
    if not path.is_dir():
        try:
            _make(bundle, path)
        except OSError as error:
            hint = "set FLAGKERNELS_CACHE to a writable folder"
            raise no_space(error, path) or ChipFault(f"cannot write {path}", why=str(error), hint=hint) from error
    stored = path / "flaggems/config_cache" / bundle.database_name
    return Overlay(
        path,
        {
            "FLAGGEMS_CACHE_DIR": str(path / "flaggems"),
            "FLAGGEMS_DB_URL": database.url(stored),
            "TRITON_CACHE_DIR": str(path / "triton-cache"),
        },
    )


def _root() -> Path:
    wanted = os.environ.get("FLAGKERNELS_CACHE")
    return Path(wanted) if wanted else Path(tempfile.gettempdir()) / f"flagkernels-{os.getuid()}"


def _make(bundle: Bundle, path: Path) -> None:
    database.check_database_file(bundle.path / "tuned.db")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        (part / "flaggems/config_cache").mkdir(parents=True)
        shutil.copyfile(bundle.path / "tuned.db", part / "flaggems/config_cache" / bundle.database_name)
        for folder in sorted((bundle.path / "triton-cache").iterdir()):
            _link_kernel(folder, part / "triton-cache" / folder.name, path / "triton-cache" / folder.name)
        try:
            part.rename(path)
        except OSError:
            if not path.is_dir():  # otherwise another process created it first
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _link_kernel(source: Path, part: Path, final: Path) -> None:
    """Link a kernel's files. Triton follows the absolute paths in the group file, so they must be the overlay's."""
    part.mkdir(parents=True)
    for file in source.iterdir():
        if file.name.startswith("__grp__"):
            names = json.loads(file.read_text())["child_paths"]
            absolute = {name: str(final / name) for name in names}
            (part / file.name).write_text(json.dumps({"child_paths": absolute}))
        else:
            (part / file.name).symlink_to(file.resolve())
