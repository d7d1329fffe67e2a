"""Writable copies of a bundle's database and kernels; the bundle itself is a read-only image layer.

One overlay serves all workers of a container: FlagGems may add a table, Triton a kernel, and the next worker finds it.
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
    path: Path
    environment: dict[str, str]


def prepare(bundle: Bundle, root: Path | None = None) -> Overlay:
    """Made once for each bundle and kept; of several processes that start at the same time, one makes it.

    Raises DatabaseCorrupt, NoSpace, ChipFault when no folder is writable."""
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
            if not path.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _link_kernel(source: Path, part: Path, final: Path) -> None:
    """Triton looks for the absolute paths in a kernel's group file; they have to be those of the overlay."""
    part.mkdir(parents=True)
    for file in source.iterdir():
        if file.name.startswith("__grp__"):
            names = json.loads(file.read_text())["child_paths"]
            absolute = {name: str(final / name) for name in names}
            (part / file.name).write_text(json.dumps({"child_paths": absolute}))
        else:
            (part / file.name).symlink_to(file.resolve())
