"""Files that put an operator bundle and the flagkernels runtime into an image."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from flagrelease import __version__
from flagrelease.contract import results
from flagrelease.contract.code_version import PACKAGE
from flagrelease.recipe.image_paths import BUNDLE, DOCKER
from flagrelease.store.workspace import Workspace

FLAGKERNELS = PACKAGE.parent / "flagkernels"
_FILES = (path for suffix in ("py", "json") for path in FLAGKERNELS.rglob(f"*.{suffix}"))
SOURCES = tuple(sorted(str(path.relative_to(FLAGKERNELS)) for path in _FILES))
PROGRAMS = tuple(f"../flagkernels/{name}" for name in SOURCES)
"""SOURCES in the form of Stage.programs."""

_ENTRY_POINTS = "[vllm.general_plugins]\nflagkernels = flagkernels.engine.plugin:register\n"
"""vLLM calls the entry point in every process that it starts. pyproject.toml declares it too."""


@dataclass(frozen=True)
class Shipped:
    """The result of the kernels stage, and the bundle on this machine."""

    result: results.Kernels
    folder: Path
    """The bundle's folder."""

    def files(self) -> dict[str, tuple[bytes, int]]:
        """Content and mode, by path in the build context."""
        bundle = {
            f"{BUNDLE}/{path.relative_to(self.folder).as_posix()}": (path.read_bytes(), 0o644)
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }
        packages = {f"programs{DOCKER.packages}/{name}": (data, 0o644) for name, data in _distribution().items()}
        return bundle | packages


def of(result: results.Kernels | None, workspace: Workspace) -> Shipped | None:
    """The bundle of `result`; None without a kernels stage."""
    return None if result is None else Shipped(result, workspace.root / result.folder)


def _distribution() -> dict[str, bytes]:
    """flagkernels as an installed distribution, because vLLM finds plugins by distribution metadata."""
    info = f"flagkernels-{__version__}.dist-info"
    files = {f"flagkernels/{name}": (FLAGKERNELS / name).read_bytes() for name in SOURCES}
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: flagkernels\nVersion: {__version__}\n".encode()
    files[f"{info}/entry_points.txt"] = _ENTRY_POINTS.encode()
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    return files


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
