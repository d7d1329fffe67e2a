import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from flagrelease.errors import ComparisonRefused
from flagrelease.verdict.noise import halves, noise_floor
from flagrelease.verdict.speed import speed
from flagrelease.verdict.stats.fidelity import divergence, fidelity, kl_top, outside
from flagrelease.verdict.stats.speed import ratio
from flagrelease.verdict.types import Verdict
from support.answer_sets import answers, drawn


def test_the_ratio_s_interval_is_scipy_s() -> None:
    a, b = [100.0, 104.0, 98.0, 101.0], [93.0, 99.0, 90.0, 96.0]
    found = ratio(a, b)
    oracle = ttest_1samp(np.log(np.divide(b, a)), 0).confidence_interval(0.90)
    assert (found.bounds.low, found.bounds.high) == pytest.approx((math.exp(oracle.low), math.exp(oracle.high)))
    assert found.ratio == pytest.approx(float(np.exp(np.log(np.divide(b, a)).mean())))


def test_drift_that_both_sides_share_falls_out() -> None:
    drift = np.array([1.0, 0.8, 0.6, 0.5])
    found = ratio(list(100 * drift), list(95 * drift * [1.001, 0.999, 1.0, 1.0]))
    assert 0.94 < found.bounds.low < found.bounds.high < 0.96


@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(1, 1e6)), min_size=3, max_size=8))
def test_swapping_the_sides_inverts_the_ratio(runs: list[tuple[float, float]]) -> None:
    a, b = (list(side) for side in zip(*runs, strict=True))
    assert ratio(a, b).ratio == pytest.approx(1 / ratio(b, a).ratio)
    assert ratio(a, b).ratio == pytest.approx(ratio(b, a, higher_is_better=False).ratio)


@pytest.mark.parametrize(
    ("candidate", "verdict"),
    [([95, 96, 94], Verdict.PASS), ([70, 71, 69], Verdict.FAIL), ([70, 95, 80], Verdict.INCONCLUSIVE)],
)
def test_speed_is_judged_by_its_bounds(candidate: list[float], verdict: Verdict) -> None:
    one = speed([100, 101, 99], candidate)
    assert one.verdict is verdict
    assert one.interval[0] < one.ratio < one.interval[1]
    assert one.runs == 3


def test_a_short_run_or_a_failed_one_is_refused() -> None:
    for a, b, what in (
        ([1.0, 1.0], [1.0, 1.0], "2 runs"),
        ([1.0] * 3, [1.0] * 4, "3 runs of the baseline, 4"),
        ([1.0] * 3, [1.0, 0.0, 1.0], "positive"),
        ([1.0] * 3, [1.0, float("nan"), 1.0], "positive"),
    ):
        with pytest.raises(ComparisonRefused, match=what):
            speed(a, b)


def test_a_baseline_against_itself_is_the_noise_floor() -> None:
    p = np.random.default_rng(1).beta(0.8, 0.5, 400)
    even, odd = halves(answers(drawn(2, p, 5)))
    assert len(even) == len(odd) == 800
    floor = noise_floor(even, odd)["mmlu"]
    assert floor.interval90[0] < 0 < floor.interval90[1]
    assert 0.02 < floor.flip_rate < 0.5
    assert noise_floor(even, even)["mmlu"].flip_rate == 0


def test_divergence_is_the_first_difference() -> None:
    assert divergence("abc", "abc") is None
    assert divergence("abc", "abd") == 2
    assert divergence("abc", "ab") == divergence("ab", "abc") == 2
    assert divergence("xbc", "abc") == 0


def logs(**p: float) -> dict[str, float]:
    return {token: math.log(value) for token, value in p.items()}


def test_kl_is_zero_for_equals_exact_for_whole_distributions_and_never_too_large() -> None:
    p, q = logs(a=0.5, b=0.3, c=0.2), logs(a=0.4, b=0.4, c=0.2)
    whole = 0.5 * math.log(0.5 / 0.4) + 0.3 * math.log(0.3 / 0.4)
    assert kl_top(p, p) == 0
    assert kl_top(p, q) == pytest.approx(whole)
    assert kl_top(logs(a=0.5, b=0.3), logs(a=0.4, c=0.2)) < whole + 0.1
    assert 0 < kl_top(logs(a=0.5), logs(a=0.4)) <= whole


@given(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), st.lists(st.floats(0.01, 1), min_size=4, max_size=4))
def test_kl_over_a_part_is_a_lower_bound(x: list[float], y: list[float]) -> None:
    p, q = ({t: math.log(v / sum(side)) for t, v in zip("abcd", side, strict=True)} for side in (x, y))
    whole = kl_top(p, q)
    part = kl_top({t: p[t] for t in "ab"}, {t: q[t] for t in "bc"})
    assert 0 <= part <= whole + 1e-9


def test_a_probe_is_read_against_the_baseline_s_own_range() -> None:
    same = fidelity([("abc", "abc")] * 3 + [("abc", "abd")], [([logs(a=0.9)], [logs(a=0.9)])])
    other = fidelity([("abc", "xbc")] * 4, [([logs(a=0.6, b=0.3)], [logs(a=0.3, b=0.6)])])
    assert (same.exact_match, same.first_divergence, same.top1_agreement, same.kl) == (0.75, 2.0, 1.0, 0.0)
    assert outside(same, [same]) == ()
    assert outside(other, [same]) == ("exact match", "top-1 agreement", "KL", "first divergence")
    assert outside(other, []) == ()
    with pytest.raises(ComparisonRefused, match="no answers"):
        fidelity([], [])
