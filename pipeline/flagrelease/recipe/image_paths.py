"""Where the parts of an image are: in a container as named here, without containers under a root folder. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flagrelease.config.matrix import Model
from flagrelease.recipe import container

BUNDLE = "kernels"
"""The bundle's folder in the build context, and below the image's config."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """`root` stands before every path and does not end in a slash; engines listen on `address`."""

    root: str = ""
    address: str = "0.0.0.0"  # noqa: S104 - inside the container

    @property
    def config(self) -> str:
        return f"{self.root}/etc/flagos"

    @property
    def manifest(self) -> str:
        return f"{self.config}/manifest.json"

    @property
    def prefix(self) -> str:
        """What the release brings: programs in `bin`, Python packages in `lib`."""
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
        """The operators of the release."""
        return f"{self.config}/{BUNDLE}"

    @property
    def effective(self) -> str:
        """Where each process of the engine says what is in effect in it."""
        return f"{self.home}/effective"

    def model(self, model: Model) -> str:
        return f"{self.root}{container.model_path(model)}"

    def host_path(self, path: str) -> str:
        """The location of the container path `path`: below `root` if there is one."""
        return f"{self.root}{path}"


DOCKER = Layout()


def under(root: Path) -> Layout:
    """Without containers. Nobody else's network is ours there, so that engines listen on this machine only."""
    return Layout(root=str(root), address="127.0.0.1")
