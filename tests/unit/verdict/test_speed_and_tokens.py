import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from flagrelease.errors import ComparisonRefused
from flagrelease.verdict.noise import halves, noise_floor
from flagrelease.verdict.speed import SpeedVerdict, speed, speed_so_far
from flagrelease.verdict.stats.speed import centre, looks, ratio
from flagrelease.verdict.stats.token_distance import LARGEST, kl_top, token_distance
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


def test_runs_are_clustered_by_the_start_of_their_servers() -> None:
    """The interval is that of the centres of the starts, however many pairs there are in each."""
    logs = [[0.01, 0.02, 0.03], [-0.04, -0.05, -0.06, -0.05], [0.00, 0.02]]
    candidate = [math.exp(value) for start in logs for value in start]
    starts = [number for number, start in enumerate(logs) for _ in start]
    found = ratio([1.0] * len(starts), candidate, starts=starts, alpha=0.025)
    oracle = ttest_1samp([0.02, -0.05, 0.01], 0).confidence_interval(0.95)
    assert (math.log(found.bounds.low), math.log(found.bounds.high)) == pytest.approx((oracle.low, oracle.high))
    assert (found.runs, found.starts) == (9, 3)
    with pytest.raises(ComparisonRefused, match="9 runs in 2 starts"):
        ratio([1.0] * 9, candidate, starts=[0] * 5 + [1] * 4)


def test_a_start_s_centre_bears_outliers() -> None:
    values = np.array([0.0, 0.01, -0.01, 0.02, 3.0])
    assert abs(centre(values)) < 0.03
    assert centre(-values) == -centre(values)
    assert centre(np.array([1.0, 2.0])) == 1.5


def test_looks_share_one_error_rate_without_end() -> None:
    some = list(itertools.islice(looks(), 30))
    assert [starts for starts, _alpha in some[:6]] == [3, 5, 8, 12, 18, 27]
    assert sum(alpha for _starts, alpha in some) < 0.05
    assert all(0 < alpha <= 0.025 for _starts, alpha in some)


def measured_so_far(logs: list[float]) -> SpeedVerdict:
    return speed_so_far([1.0] * len(logs), [math.exp(value) for value in logs], starts=list(range(len(logs))))


def test_a_verdict_is_that_of_the_first_look_that_decides() -> None:
    noisy, calm = [0.0, -0.5, 0.3], [0.001, -0.001, 0.002, 0.0, 0.001]
    assert measured_so_far(calm[:3]).verdict is Verdict.PASS
    assert measured_so_far([*calm[:3], -0.9, -0.9]) == measured_so_far(calm[:3]), "later starts do not change it"
    undecided = measured_so_far(noisy)
    assert undecided.verdict is Verdict.INCONCLUSIVE
    assert measured_so_far([*noisy, 0.0]) == undecided, "there is no look after four starts"
    later = measured_so_far([*noisy, *calm, *calm])
    assert (later.verdict, later.starts) == (Verdict.PASS, 12)
    narrow = speed([1.0] * 12, [math.exp(value) for value in [*noisy, *calm, *calm][:12]], alpha=0.02)
    assert later.interval[0] < narrow.interval[0], "a later look has less of the error rate"


@pytest.mark.parametrize(("truth", "wrong"), [(0.80, Verdict.PASS), (0.80, Verdict.FAIL), (0.75, Verdict.PASS)])
def test_the_error_rate_holds_where_starts_differ(truth: float, wrong: Verdict) -> None:
    """A short version of benchmarks/speed.py: 5 % from start to start, and many pairs in each."""
    random = np.random.default_rng(7)
    count = 0
    for _ in range(400):
        starts = np.repeat(np.arange(8), 4)
        logs = math.log(truth) + random.normal(0, 0.05, 8)[starts] + random.normal(0, 0.02, 32)
        count += speed_so_far([1.0] * 32, list(np.exp(logs)), starts=starts.tolist()).verdict is wrong
    assert count <= 0.05 * 400 + 2 * math.sqrt(0.05 * 0.95 * 400)


def test_a_baseline_against_itself_is_the_noise_floor() -> None:
    p = np.random.default_rng(1).beta(0.8, 0.5, 400)
    even, odd = halves(answers(drawn(2, p, 5)))
    assert len(even) == len(odd) == 800
    floor = noise_floor(even, odd)["mmlu"]
    assert floor.interval90[0] < 0 < floor.interval90[1]
    assert 0.02 < floor.flip_rate < 0.5
    assert noise_floor(even, even)["mmlu"].flip_rate == 0


def logs(**p: float) -> dict[str, float]:
    return {token: math.log(value) for token, value in p.items()}


def test_kl_is_zero_for_equals_exact_for_whole_distributions_and_never_too_large() -> None:
    p, q = logs(a=0.5, b=0.3, c=0.2), logs(a=0.4, b=0.4, c=0.2)
    whole = 0.5 * math.log(0.5 / 0.4) + 0.3 * math.log(0.3 / 0.4)
    assert kl_top(p, p) == 0
    assert kl_top(p, q) == pytest.approx(whole)
    assert 0 < kl_top(logs(a=0.5), logs(a=0.4)) <= whole


def test_kl_counts_tokens_that_only_one_side_lists() -> None:
    """Two servers that agree on nothing are far apart: a token that is not listed is at most as likely as the last."""
    assert kl_top(logs(a=0.9, b=0.05), logs(c=0.9, d=0.05)) > 2
    found = kl_top(logs(a=0.5, b=0.3), logs(a=0.4, c=0.2))
    assert found == pytest.approx(0.5 * math.log(0.5 / 0.4) + 0.3 * math.log(0.3 / 0.2) + 0.2 * math.log(0.2 / 0.6))


@given(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), st.lists(st.floats(0.01, 1), min_size=4, max_size=4))
def test_kl_over_the_most_likely_is_a_lower_bound(x: list[float], y: list[float]) -> None:
    p, q = ({t: math.log(v / sum(side)) for t, v in zip("abcd", side, strict=True)} for side in (x, y))
    likeliest = [dict(sorted(side.items(), key=lambda entry: -entry[1])[:2]) for side in (p, q)]
    assert 0 <= kl_top(*likeliest) <= kl_top(p, q) + 1e-9


def test_a_distance_s_interval_is_that_of_the_prompts() -> None:
    p, q = logs(a=0.6, b=0.4), logs(a=0.4, b=0.6)
    one = kl_top(p, q)
    prompts = [[(p, p)] * 3, [(p, q)] * 100, [(p, q), (p, p)]]
    found = token_distance(prompts, alpha=0.05)
    oracle = ttest_1samp([0, one, one / 2], 0).confidence_interval(0.90)
    assert (found.prompts, found.tokens, found.mean) == (3, 105, pytest.approx(one / 2))
    assert found.interval == pytest.approx((max(oracle.low, 0), oracle.high))
    assert found.same_top == pytest.approx(4 / 105)
    with pytest.raises(ComparisonRefused, match="answers to 1 prompts"):
        token_distance([[(p, q)] * 100], alpha=0.05)


def test_no_single_token_decides() -> None:
    sure = logs(a=0.999999)
    found = token_distance([[(sure, {"b": -1e-9, "a": -30.0})], [(sure, sure)]], alpha=0.05)
    assert found.mean == LARGEST / 2
