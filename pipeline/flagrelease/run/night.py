"""The order of a scheduled run: on each chip one cell first, and the others only if chip and machine work. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from flagrelease.errors import EnvironmentFault, UpstreamRefused
from flagrelease.run.plan import CellPlan

_NOT_OF_THE_CELL = (EnvironmentFault.exit_code, UpstreamRefused.exit_code)
"""Exit codes of failures that the chip's other cells would meet as well."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The cells of one chip that have something to run."""

    chip: str
    """The chip's name in the matrix."""
    canary: CellPlan
    """The cell that runs first."""
    others: tuple[CellPlan, ...]
    """The cells that run after it, in the order of the matrix."""


def turns(plans: Iterable[CellPlan], seconds: Callable[[str], float | None]) -> tuple[Turn, ...]:
    """The cells with something to run, by chip. The canary is the one whose last release took the least time; of cells
    that were never released, the first. `seconds` gives a cell's last time, None if it has none."""
    by_chip: dict[str, list[CellPlan]] = {}
    for plan in plans:
        if not plan.cell.excluded and not plan.blocked and not plan.idle:
            by_chip.setdefault(plan.cell.chip_name, []).append(plan)
    return tuple(_turn(chip, cells, seconds) for chip, cells in by_chip.items())


def _turn(chip: str, plans: Sequence[CellPlan], seconds: Callable[[str], float | None]) -> Turn:
    timed = {plan.cell.id: seconds(plan.cell.id) for plan in plans}
    canary = min(plans, key=lambda plan: (timed[plan.cell.id] is None, timed[plan.cell.id] or 0.0))
    return Turn(chip=chip, canary=canary, others=tuple(plan for plan in plans if plan is not canary))


def holds_others_back(code: int) -> bool:
    """Whether a canary that ended with this exit code says that the chip's other cells would fail as well."""
    return code in _NOT_OF_THE_CELL
