"""Answers of another length, and a baseline that was truncated more often."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flagrelease.verdict.fixed_sample import compare
from flagrelease.verdict.group_sequential import PlannedLooks, judge
from flagrelease.verdict.lengths import length_ratio, truncation_excess
from flagrelease.verdict.samples import Sample
from flagrelease.verdict.types import BenchmarkVerdict, Verdict
from support.answer_sets import answers

RIGHT = answers([[n % 4 > 0] for n in range(400)])


def lengths(factor: float, seed: int) -> list[Sample]:
    """The same answers with a length that depends on the question, and varies by a quarter."""
    tokens = 100 + np.arange(400) * 2
    noise = np.random.default_rng(seed).uniform(0.75, 1.25, 400)
    given = (tokens * noise * factor).astype(int).tolist()
    return [replace(each, completion_tokens=count) for each, count in zip(RIGHT, given, strict=True)]


def judged(baseline: list[Sample], candidate: list[Sample], *, sequential: bool) -> BenchmarkVerdict:
    if not sequential:
        return compare(baseline, candidate, margins={"mmlu": 0.05}).benchmarks["mmlu"]
    questions = tuple((each.subset, each.question_id) for each in RIGHT)
    planned = PlannedLooks(questions=questions, margin=0.05, repeats=1, fail_alpha=0.05, reference=False, chance=0.0)
    return judge(planned, "mmlu", baseline, candidate)


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize(("factor", "named"), [(1.0, False), (1.08, False), (1.3, True), (0.7, True)])
def test_answers_of_another_length_are_named(factor: float, named: bool, sequential: bool) -> None:
    found = judged(lengths(1.0, 1), lengths(factor, 2), sequential=sequential)
    assert found.verdict is Verdict.PASS
    assert found.length is not None
    low, high = found.length.interval
    assert low < found.length.ratio < high
    assert found.length.ratio == pytest.approx(factor, abs=0.05)
    assert any("times as long as the baseline's" in remark for remark in found.remarks) is named


def test_the_ratio_is_paired_by_question_and_covers_the_truth() -> None:
    """Only questions that both sides answered count; failed answers have no length."""
    before, after = lengths(1.0, 1), lengths(1.2, 2)
    assert length_ratio(before, after[:100]) == length_ratio(before[:100], after[:100])
    failed = [replace(after[0], correct=False, error="HTTP 500"), *after[1:]]
    assert length_ratio(before, failed) == length_ratio(before[1:], after[1:])
    assert length_ratio(before, [replace(each, completion_tokens=None) for each in after]) is None
    covered = 0
    for seed in range(200):
        found = length_ratio(lengths(1.0, 1000 + seed), lengths(1.0, 2000 + seed))
        assert found is not None
        covered += found.interval[0] <= 1.0 <= found.interval[1]
    assert 0.84 <= covered / 200 <= 0.96  # 90 %, within three standard errors


def cut(samples: list[Sample], share: float) -> list[Sample]:
    """Some answers are truncated, and therefore wrong and empty."""
    return [
        replace(each, correct=False, answer=None, finish_reason="length") if n < share * len(samples) else each
        for n, each in enumerate(samples)
    ]


@pytest.mark.parametrize("sequential", [False, True])
def test_a_baseline_that_was_truncated_more_often_helps_nobody(sequential: bool) -> None:
    """A sixth of its answers are missing, and the candidate is wrong elsewhere."""
    worse = [replace(each, correct=False) if 100 <= n < 150 else each for n, each in enumerate(RIGHT)]
    found = judged(cut(RIGHT, 1 / 6), worse, sequential=sequential)
    assert found.difference == pytest.approx(0.03, abs=0.03)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert any("the baseline was truncated more often" in remark for remark in found.remarks)
    alike = judged(cut(RIGHT, 1 / 6), cut(RIGHT, 1 / 6), sequential=sequential)
    assert alike.verdict is Verdict.PASS
    assert "67 of 400 answers of the candidate were truncated" in alike.remarks or sequential


def test_truncation_counts_only_where_it_is_significant() -> None:
    assert truncation_excess(cut(RIGHT, 0.1), cut(RIGHT, 0.1)) == 0
    assert truncation_excess(cut(RIGHT, 0.1), cut(RIGHT, 0.095)) == 0
    assert truncation_excess(cut(RIGHT, 0.1), cut(RIGHT, 0.05)) == pytest.approx(0.05)
    assert truncation_excess(cut(RIGHT, 0.05), cut(RIGHT, 0.1)) == 0, "a candidate that is cut off is worse"
    assert truncation_excess(RIGHT, RIGHT) == 0


def test_questions_that_were_asked_more_often_do_not_weigh_more() -> None:
    """The candidate is asked more where it is uncertain, and truncated more often there, as the baseline is."""
    before = cut(RIGHT, 0.1)
    after = [replace(each, repeat=repeat) for each in before for repeat in range(8 if each.answer is None else 1)]
    assert truncation_excess(before, after) == truncation_excess(after, before) == 0
    assert length_ratio(before, after) == length_ratio(before, before)
