"""The inputs of a measurement: both stacks, the load, and the load generator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flagrelease.config.cell import Cell
from flagrelease.config.engines import ENGINES, LoadToolName
from flagrelease.config.matrix import Stack
from flagrelease.contract.job import Job

BASELINE: Stack = "native"
"""The stack that every other one is compared with."""


def chosen(cell: Cell) -> LoadToolName:
    """The load generator: the profile's, else the engine's."""
    return cell.profile.load_tool or ENGINES[cell.model.serve.engine].load_tool


def inputs(job: Job) -> Mapping[str, Any]:
    """Everything of the job that the measurement depends on.

    Without the profile's `speed_minutes`: it limits one run's measurement, not what is measured.
    """
    cell = job.cell
    return {
        "container": cell.chip.container,
        "serve": cell.model.serve,
        "stack": cell.stack,
        "speed": cell.profile.speed,
        "load_tool": chosen(cell),
    }
