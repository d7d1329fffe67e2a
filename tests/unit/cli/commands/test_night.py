"""`flagrelease night`: canaries first, and the others only where they can succeed."""

from __future__ import annotations

from collections.abc import Sequence

from flagrelease.cli.commands.night import Turn, _in_turns
from flagrelease.cli.summary import CellResult
from flagrelease.config import matrix as matrices
from flagrelease.config.cell import expand
from flagrelease.run.plan import CellPlan
from support.project import SOURCE

PLANS = {cell.id: CellPlan(cell=cell, steps=()) for cell in expand(matrices.load(SOURCE / "matrix.yaml"))}
H100 = Turn(chip="nvidia-h100", canary=PLANS["nvidia-h100/smollm2-135m"], others=(PLANS["nvidia-h100/qwen3-8b"],))
CPU = Turn(chip="cpu", canary=PLANS["cpu/smollm2-135m"], others=(PLANS["cpu/qwen3-8b"],))


def night(codes: dict[str, int]) -> tuple[list[list[str]], dict[str, tuple[str, int]]]:
    """What was started together, and each cell's state and exit code."""
    started: list[list[str]] = []

    def release(plans: Sequence[CellPlan]) -> list[CellResult]:
        started.append([plan.cell.id for plan in plans])
        return [
            CellResult(cell=name, state="red" if code else "released", stage="", reason="", code=code, seconds=1.0)
            for name in started[-1]
            for code in (codes.get(name, 0),)
        ]

    results = _in_turns([H100, CPU], release)
    return started, {result.cell: (result.state, result.code) for result in results}


def test_the_others_follow_when_the_canaries_are_green_or_red_for_reasons_of_their_own() -> None:
    started, results = night({"nvidia-h100/smollm2-135m": 4})
    assert started == [["nvidia-h100/smollm2-135m", "cpu/smollm2-135m"], ["nvidia-h100/qwen3-8b", "cpu/qwen3-8b"]]
    assert {state for state, code in results.values() if not code} == {"released"}


def test_the_others_of_a_chip_wait_when_its_canary_meets_a_fault_of_the_machine() -> None:
    started, results = night({"nvidia-h100/smollm2-135m": 6})
    assert started == [["nvidia-h100/smollm2-135m", "cpu/smollm2-135m"], ["cpu/qwen3-8b"]]
    assert results["nvidia-h100/qwen3-8b"] == ("waiting", 6)
    assert results["cpu/qwen3-8b"] == ("released", 0)
