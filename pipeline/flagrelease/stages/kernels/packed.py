"""Pack an operator bundle, to store it as evidence and to detect changes."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

from flagrelease.packaging.wheelhouse import EPOCH

PACKED = "bundle.tar"


def pack(folder: Path, target: Any) -> None:
    """Write the bundle as a tar; equal bundles give equal bytes."""
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size, entry.mode, entry.mtime = path.stat().st_size, 0o644, int(EPOCH)
            with path.open("rb") as stream:
                tar.addfile(entry, stream)
