"""The order of a night: one cell of each chip before its others."""

from __future__ import annotations

import pytest

from flagrelease.cli.commands.night import holds_others_back, turns
from flagrelease.config import matrix as matrices
from flagrelease.config.cell import Cell, expand
from flagrelease.errors import (
    Busy,
    Corrupt,
    DockerUnavailable,
    GateFailed,
    Inconclusive,
    NoSpace,
    RegistryDenied,
    SmokeFailed,
)
from flagrelease.run.plan import CellPlan, Step
from support.project import SOURCE

CELLS = {cell.id: cell for cell in expand(matrices.load(SOURCE / "matrix.yaml"))}


def planned(name: str, action: str = "run", blocked: str = "") -> CellPlan:
    cell: Cell = CELLS[name]
    return CellPlan(cell=cell, steps=(Step(stage="weights", action=action, reason=""),), blocked=blocked)  # type: ignore[arg-type]


def canaries(seconds: dict[str, float], *plans: CellPlan) -> dict[str, tuple[str, list[str]]]:
    found = turns(plans, seconds.get)
    return {turn.chip: (turn.canary.cell.id, [plan.cell.id for plan in turn.others]) for turn in found}


def test_the_cell_that_took_the_least_time_is_first_and_new_ones_are_last() -> None:
    small, large = planned("nvidia-h100/smollm2-135m"), planned("nvidia-h100/qwen3-8b")
    assert canaries({}, small, large) == {"nvidia-h100": (small.cell.id, [large.cell.id])}
    assert canaries({large.cell.id: 9e4}, small, large) == {"nvidia-h100": (large.cell.id, [small.cell.id])}
    timed = {large.cell.id: 9e4, small.cell.id: 600.0}
    assert canaries(timed, large, small) == {"nvidia-h100": (small.cell.id, [large.cell.id])}


def test_each_chip_has_its_own_and_cells_without_work_have_none() -> None:
    plans = [
        planned("cpu/smollm2-135m"),
        planned("nvidia-h100/smollm2-135m", action="reuse"),
        planned("nvidia-h100/qwen3-8b"),
        planned("metax/qwen3-8b", blocked="not locked"),
        planned("cpu/qwen3-8b"),  # excluded
    ]
    assert canaries({}, *plans) == {
        "cpu": ("cpu/smollm2-135m", []),
        "nvidia-h100": ("nvidia-h100/qwen3-8b", []),
    }


@pytest.mark.parametrize(
    ("error", "held"),
    [
        (DockerUnavailable, True),
        (NoSpace, True),
        (RegistryDenied, True),
        (Corrupt, True),
        (GateFailed, False),
        (SmokeFailed, False),
        (Inconclusive, False),
        (Busy, False),
    ],
)
def test_only_faults_that_are_not_the_cell_s_own_hold_the_others_back(error: type[GateFailed], held: bool) -> None:
    assert holds_others_back(error.exit_code) is held
