"""The inputs of a cell's stages, all of them known before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flagrelease.config.cell import Cell
from flagrelease.config.lockfile import Lock
from flagrelease.config.matrix import Matrix
from flagrelease.recipe.container import RunnerKind

if TYPE_CHECKING:
    from flagrelease.contract.results import Attribution


@dataclass(frozen=True, kw_only=True)
class Job:
    """The inputs of a cell's stages, all of them known before anything runs.

    `registry` is HOST/PREFIX without a trailing slash; `data_dir` an operator's folder of benchmark data; `runner` is
    what starts programs on the chip's host; `attributed` are the rounds whose culprits the cell's kernels leave out.
    """

    cell: Cell
    matrix: Matrix
    lock: Lock
    registry: str
    templates: Path
    data_dir: Path | None = None
    runner: RunnerKind = "docker"
    attributed: tuple[Attribution, ...] = ()
