"""A design of interim analyses refuses parameters that decide nothing."""

import pytest

from flagrelease.errors import ComparisonRefused
from flagrelease.verdict.group_sequential import PlannedLooks


@pytest.mark.parametrize("margin", [0, -0.05, 1, 5])
def test_a_margin_that_any_model_passes_is_refused(margin: float) -> None:
    questions = (("all", "1"), ("all", "2"))
    planned = PlannedLooks(questions=questions, margin=margin, repeats=2, fail_alpha=0.05, reference=False, chance=0.0)
    with pytest.raises(ComparisonRefused, match=f"the margin is {margin}") as caught:
        _ = planned.design
    assert "fraction" in caught.value.hint
