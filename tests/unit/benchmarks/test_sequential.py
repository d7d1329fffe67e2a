"""The fixed-sample evaluation with which the sequential one is compared has the power that it is said to have."""

from __future__ import annotations

import pytest

from support.benchmark_programs import opened


@pytest.mark.parametrize("reference", [False, True])
def test_the_fixed_sample_evaluation_has_the_power_and_the_level(reference: bool) -> None:
    program = opened("sequential")
    gpqa = next(case for case in program.CASES if case.name == "GPQA")
    same = program.fixed(gpqa, 0.0, seed=1, runs=1000, reference=reference)
    worse = program.fixed(gpqa, gpqa.margin, seed=1, runs=1000, reference=reference)
    assert same.passed == pytest.approx(program.POWER, abs=0.012)
    assert worse.passed < 0.045 + 0.02
