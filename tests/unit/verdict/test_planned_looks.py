"""A design of interim analyses refuses parameters that decide nothing."""

import pytest

from flagrelease.errors import ComparisonRefused
from flagrelease.verdict.group_sequential import PlannedLooks, interim_analyses


@pytest.mark.parametrize("margin", [0, -0.05, 1, 5])
def test_a_margin_that_any_model_passes_is_refused(margin: float) -> None:
    questions = (("all", "1"), ("all", "2"))
    planned = PlannedLooks(questions=questions, margin=margin, repeats=2, fail_alpha=0.05, reference=False, chance=0.0)
    with pytest.raises(ComparisonRefused, match=f"the margin is {margin}") as caught:
        _ = planned.design
    assert "fraction" in caught.value.hint


@pytest.mark.parametrize(
    ("margin", "repeats", "looks"),
    [(0.01, 1, 40), (0.03, 1, 18), (0.05, 1, 10), (0.01, 2, 10)],
    ids=["MMLU", "IFEval", "a short benchmark", "sampled answers"],
)
def test_benchmarks_that_are_asked_once_have_more_looks_of_at_least_128_questions(
    margin: float, repeats: int, looks: int
) -> None:
    assert interim_analyses(margin, repeats) == looks
    questions = tuple(("", str(number)) for number in range(14_042))
    planned = PlannedLooks(
        questions=questions,
        margin=margin,
        repeats=repeats,
        looks=looks,
        fail_alpha=0.01,
        reference=False,
        chance=0.0,
    )
    parts, _ = planned.design.opening
    assert len(questions) / parts >= 128
