"""The job of a cell: the inputs of its stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flagrelease.config import names
from flagrelease.config.cell import Cell
from flagrelease.config.lockfile import Lock
from flagrelease.config.matrix import Matrix
from flagrelease.recipe.container import RunnerKind
from flagrelease.releases.lineage import Previous

if TYPE_CHECKING:
    from flagrelease.contract.results import Attribution


@dataclass(frozen=True, kw_only=True)
class Job:
    """The inputs of a cell's stages, all of them known before any stage runs."""

    cell: Cell
    """The cell."""
    matrix: Matrix
    """All of matrix.yaml."""
    lock: Lock
    """All of matrix.lock."""
    registry: str
    """HOST/PREFIX without a trailing slash."""
    templates: Path
    """The folder of templates."""
    data_dir: Path | None = None
    """The operator's folder of benchmark data."""
    runner: RunnerKind = "docker"
    """What starts programs on the chip's host."""
    attributed: tuple[Attribution, ...] = ()
    """Rounds of attribution; their culprits are excluded from the cell's operators."""

    previous: Previous | None = None
    """The cell's newest release. In no key: that a release exists is no reason to make another one."""
    reason: str = ""
    """Why this release is made, in the user's words. In no key either."""

    @property
    def repository(self) -> str:
        """The repository of the cell's image, HOST/PREFIX/NAME."""
        cell = self.cell
        fields = names.of_cell(cell.chip_name, cell.chip, cell.model_name, cell.model.title)
        return f"{self.registry}/{names.repository(names.render(self.matrix.repository, fields))}"
