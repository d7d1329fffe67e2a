"""False PASS over several attempts and against a kept baseline, by the simulation's generators with fewer runs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from support.benchmark_programs import opened

RUNS = 60


def test_an_image_that_is_judged_until_it_passes_has_the_nominal_rate() -> None:
    """Without the budget, about 17 %."""
    program = opened("attempts")
    random = np.random.default_rng(2)
    kept = program.Kept.draw(replace(program.AIME, repeats=16), random, RUNS)
    passed = program.until(kept, program.after, random, 5, goes_on=lambda found: found != 1)
    assert passed <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / RUNS)
