"""The operators of a release as parts of its image: the bundle, and flagkernels, which puts it into effect."""

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
"""As Stage.programs names them."""

_ENTRY_POINTS = "[vllm.general_plugins]\nflagkernels = flagkernels.engine.plugin:register\n"
"""vLLM calls it in every process that it starts. The same is in pyproject.toml."""


@dataclass(frozen=True)
class Shipped:
    """What the kernels stage gave, and the bundle's folder on this machine."""

    result: results.Kernels
    folder: Path

    def files(self) -> dict[str, tuple[bytes, int]]:
        """By path in the build context, with mode."""
        bundle = {
            f"{BUNDLE}/{path.relative_to(self.folder).as_posix()}": (path.read_bytes(), 0o644)
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }
        packages = {f"programs{DOCKER.packages}/{name}": (data, 0o644) for name, data in _distribution().items()}
        return bundle | packages


def of(result: results.Kernels | None, workspace: Workspace) -> Shipped | None:
    return None if result is None else Shipped(result, workspace.root / result.folder)


def _distribution() -> dict[str, bytes]:
    """flagkernels as an installed distribution, since vLLM finds plugins by their metadata."""
    info = f"flagkernels-{__version__}.dist-info"
    files = {f"flagkernels/{name}": (FLAGKERNELS / name).read_bytes() for name in SOURCES}
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: flagkernels\nVersion: {__version__}\n".encode()
    files[f"{info}/entry_points.txt"] = _ENTRY_POINTS.encode()
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    return files


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
