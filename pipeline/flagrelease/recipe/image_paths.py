"""The paths of an image's parts: absolute in a container, below a root folder without containers. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flagrelease.config.matrix import Model
from flagrelease.recipe import container

BUNDLE = "kernels"
"""The bundle's folder in the build context, and in the image's config folder."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The paths of an image's parts."""

    root: str = ""
    """Prefix of all paths, without a trailing slash."""
    address: str = "0.0.0.0"  # noqa: S104 - inside the container
    """The address that engines listen on."""

    @property
    def config(self) -> str:
        return f"{self.root}/etc/flagos"

    @property
    def manifest(self) -> str:
        return f"{self.config}/manifest.json"

    @property
    def prefix(self) -> str:
        """The files of the release: programs in `bin`, Python packages in `lib`."""
        return f"{self.root}/opt/flagos"

    @property
    def packages(self) -> str:
        return f"{self.prefix}/lib"

    @property
    def programs(self) -> str:
        return f"{self.prefix}/bin"

    @property
    def home(self) -> str:
        """FlagScale's experiment folder: scripts, logs and process ids."""
        return f"{self.root}/var/lib/flagos"

    @property
    def bundle(self) -> str:
        """The operator bundle."""
        return f"{self.config}/{BUNDLE}"

    @property
    def effective(self) -> str:
        """The folder of the engine processes' status files."""
        return f"{self.home}/effective"

    def model(self, model: Model) -> str:
        """The model's folder."""
        return f"{self.root}{container.model_path(model)}"

    def host_path(self, path: str) -> str:
        """The location of the container path `path`: below `root` if there is one."""
        return f"{self.root}{path}"


DOCKER = Layout()


def under(root: Path) -> Layout:
    """The layout without containers. Without a network namespace, engines bind to loopback only."""
    return Layout(root=str(root), address="127.0.0.1")
