"""Name the load generator of a cell: the profile's, else the engine's."""

from __future__ import annotations

from flagrelease.config.cell import Cell
from flagrelease.config.engines import ENGINES, LoadToolName


def chosen(cell: Cell) -> LoadToolName:
    return cell.profile.load_tool or ENGINES[cell.model.serve.engine].load_tool
