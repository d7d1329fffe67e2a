"""Paired statistics against statsmodels, and their properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagrelease.verdict.stats.paired import (
    Pairs,
    Side,
    difference,
    holm,
    interval,
    kept_error,
    mid_p,
    regression_p,
    regression_z,
    standard_error,
    tango,
)

# statsmodels is imported where it is used: it takes seconds, which every process that collects tests would spend.


def pairs(a: np.ndarray, b: np.ndarray, cluster: np.ndarray | None = None) -> Pairs:
    """From two arrays of scores, shape (questions, repeats)."""

    def side(x: np.ndarray) -> Side:
        return Side(np.full(len(x), x.shape[1]), x.sum(axis=1).astype(float), (x.astype(float) ** 2).sum(axis=1))

    return Pairs(side(a), side(b), np.arange(len(a)) if cluster is None else cluster)


def draw(seed: int, n: int, k_a: int, k_b: int, drop: float = 0.0, alpha: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    p = random.beta(alpha, 0.5, n)
    return random.random((n, k_a)) < p[:, None], random.random((n, k_b)) < np.clip(p - drop, 0, 1)[:, None]


@pytest.mark.slow  # statsmodels takes seconds to import
@pytest.mark.parametrize(("k_a", "k_b"), [(2, 2), (8, 8), (4, 16), (1, 5)])
def test_cmh_is_statsmodels(k_a: int, k_b: int) -> None:
    from statsmodels.stats.contingency_tables import StratifiedTable

    a, b = draw(1, 60, k_a, k_b, drop=0.1)
    tables = [
        np.array([[y.sum(), k_b - y.sum()], [x.sum(), k_a - x.sum()]])
        for x, y in zip(a, b, strict=True)
        if 0 < x.sum() + y.sum() < k_a + k_b
    ]
    oracle = StratifiedTable(tables).test_null_odds(correction=False)
    assert regression_z(pairs(a, b)) ** 2 == pytest.approx(oracle.statistic, rel=1e-12)
    assert 2 * regression_p(pairs(a, b)) == pytest.approx(oracle.pvalue, rel=1e-9)  # the drop makes z negative


@pytest.mark.parametrize(("gained", "lost"), [(8, 12), (3, 15), (0, 6), (40, 41)])
def test_mid_p_lies_between_the_exact_tests(gained: int, lost: int) -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    table = [[100, lost], [gained, 50]]
    exact = mcnemar(table, exact=True).pvalue / 2
    at = math.comb(gained + lost, gained) * 0.5 ** (gained + lost)
    assert mid_p(gained=gained, lost=lost) == pytest.approx(exact - at / 2, rel=1e-9)
    assert mid_p(gained=gained, lost=lost) + mid_p(gained=lost, lost=gained) == pytest.approx(1)


def test_one_repeat_is_mcnemar() -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    a, b = draw(3, 200, 1, 1, drop=0.05)
    gained, lost = int((b & ~a).sum()), int((a & ~b).sum())
    assert regression_p(pairs(a, b)) == mid_p(gained=gained, lost=lost)
    statistic = mcnemar([[0, lost], [gained, 0]], exact=False, correction=False).statistic
    assert regression_z(pairs(a, b)) ** 2 == pytest.approx(statistic)


@pytest.mark.slow  # statsmodels takes seconds to import
def test_clustered_standard_error_is_statsmodels() -> None:
    from statsmodels.regression.linear_model import OLS

    a, b = draw(4, 256, 3, 2, drop=0.05)
    stories = np.repeat(np.arange(64), 4)
    d = b.mean(axis=1) - a.mean(axis=1)
    groups = {"groups": stories, "use_correction": False, "df_correction": False}
    fitted = OLS(d, np.ones(256)).fit(cov_type="cluster", cov_kwds=groups)
    assert standard_error(pairs(a, b, stories)) == pytest.approx(float(fitted.bse[0]) * math.sqrt(64 / 63))
    assert standard_error(pairs(a, b)) == pytest.approx(float(np.std(d, ddof=1)) / 16)


def test_the_interval_inside_the_margin_is_tost() -> None:
    """Without the added flips (a large n makes them vanish) passing is what ttost_paired says at 5 %."""
    from statsmodels.stats.weightstats import ttost_paired

    a, b = draw(5, 4000, 4, 4)
    d = b.mean(axis=1) - a.mean(axis=1)
    low, high = interval(pairs(a, b)).low, interval(pairs(a, b)).high
    for margin in np.linspace(0.001, 0.03, 59):
        if min(abs(margin - abs(low)), abs(margin - abs(high))) > 2e-5:
            p = ttost_paired(b.mean(axis=1), a.mean(axis=1), -margin, margin)[0]
            assert (p < 0.05) == (-margin < low and high < margin)
    assert difference(pairs(a, b)) == pytest.approx(d.mean())


def test_tango_gives_the_published_values() -> None:
    # 0 of 30 and 0 of 198: ±z²/(n + z²). 12 against 8 flips of 198, in points: −6.0 to +1.8.
    z2 = 1.6448536269514722**2
    for n in (30, 198):
        nothing = tango(gained=0, lost=0, n=n)
        assert (nothing.low, nothing.high) == pytest.approx((-z2 / (n + z2), z2 / (n + z2)), abs=1e-9)
    some = tango(gained=8, lost=12, n=198)
    assert (round(some.low, 3), round(some.high, 3)) == (-0.060, 0.018)


def test_tango_s_edges_are_where_the_score_test_turns() -> None:
    """At an edge δ, the constrained maximum likelihood z is exactly ±z_{0.95}; found by brute force here."""
    gained, lost, n = 9, 17, 120
    found = tango(gained=gained, lost=lost, n=n)
    for edge in (found.low, found.high):
        grid = np.linspace(max(0, -edge) + 1e-9, (1 - edge) / 2 - 1e-9, 2_000_001)
        likelihood = (
            gained * np.log(grid + edge) + lost * np.log(grid) + (n - gained - lost) * np.log(1 - 2 * grid - edge)
        )
        p = grid[np.argmax(likelihood)]
        z = (gained - lost - n * edge) / math.sqrt(n * (2 * p + edge - edge**2))
        assert abs(z) == pytest.approx(1.6448536, abs=1e-4)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300))
def test_tango_mirrors_and_holds_the_estimate(gained: int, lost: int, same: int) -> None:
    n = gained + lost + same
    if n == 0:
        return
    one, other = tango(gained=gained, lost=lost, n=n), tango(gained=lost, lost=gained, n=n)
    assert -1 <= one.low <= (gained - lost) / n <= one.high <= 1
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-9)


@given(st.integers(0, 2**31), st.integers(2, 40), st.integers(1, 4), st.booleans())
def test_swapping_the_sides_mirrors_everything(seed: int, n: int, k: int, partial: bool) -> None:
    random = np.random.default_rng(seed)
    a, b = random.integers(0, 2, (2, n, k)).astype(float) * (random.random((2, n, k)) if partial else 1)
    here = pairs(a, b)
    there = Pairs(here.candidate, here.baseline, here.cluster)
    assert difference(here) == pytest.approx(-difference(there), abs=1e-12)
    assert regression_p(here) + regression_p(there) == pytest.approx(1)
    mine, mirrored = interval(here), interval(there)
    assert (mine.low, mine.high) == pytest.approx((-mirrored.high, -mirrored.low), abs=1e-9)
    assert mine.low <= difference(here) <= mine.high


@given(st.integers(0, 2**31), st.integers(3, 40))
def test_the_order_of_questions_says_nothing(seed: int, n: int) -> None:
    random = np.random.default_rng(seed)
    a, b = random.integers(0, 2, (2, n, 3))
    order = random.permutation(n)
    stories = np.arange(n) // 3
    here, there = pairs(a, b, stories), pairs(a[order], b[order], stories[order])
    assert regression_p(here) == pytest.approx(regression_p(there))
    assert interval(here).low == pytest.approx(interval(there).low)


def test_repeats_that_never_vary_are_one_repeat() -> None:
    a, b = draw(7, 100, 1, 1)
    once, often = pairs(a, b), pairs(np.repeat(a, 8, axis=1), np.repeat(b, 8, axis=1))
    assert interval(once) == interval(often)
    assert regression_p(once) == regression_p(often)


@pytest.mark.parametrize("k", [1, 2, 16])
def test_no_flips_are_no_certainty(k: int) -> None:
    a = np.random.default_rng(1).integers(0, 2, (30, k))
    bounds = interval(pairs(a, a))
    assert bounds.low < 0 < bounds.high
    assert bounds.half_width > 0.9 / (30 * k)


def test_dependent_questions_widen_the_interval() -> None:
    random = np.random.default_rng(8)
    a = np.repeat(random.random((64, 1)) < 0.6, 4, axis=0)
    b = np.repeat(random.random((64, 1)) < 0.6, 4, axis=0)
    stories = np.repeat(np.arange(64), 4)
    assert interval(pairs(a, b, stories)).half_width > 1.7 * interval(pairs(a, b)).half_width


@pytest.mark.parametrize(("n", "k"), [(30, 1), (30, 4), (198, 2)])
def test_the_interval_covers_what_is_true(n: int, k: int) -> None:
    """5 % on each side, within the noise of 2,000 repetitions; the truth is a drop that differs by question."""
    random = np.random.default_rng(n * k)
    low = high = 0
    for _ in range(2000):
        p = random.beta(0.8, 0.5, n)
        q = np.where(random.random(n) < 0.1, p * 0.5, p)
        truth = -0.05 * 0.8 / 1.3
        bounds = interval(pairs(random.random((n, k)) < p[:, None], random.random((n, k)) < q[:, None]))
        low += truth < bounds.low
        high += truth > bounds.high
    assert low <= 2000 * 0.05 + 3 * math.sqrt(2000 * 0.05 * 0.95)
    assert high <= 2000 * 0.05 + 3 * math.sqrt(2000 * 0.05 * 0.95)
    assert low + high >= 2000 * 0.04  # nor is it wider than it has to be


@pytest.mark.slow  # statsmodels takes seconds to import
def test_holm_is_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    draws = np.random.default_rng(1)
    seen = set()
    for size in range(1, 9):
        for power in (1, 4, 16):
            p_values = dict(zip("abcdefgh", (draws.random(size) ** power).tolist(), strict=False))
            oracle = multipletests(list(p_values.values()), alpha=0.05, method="holm")[0].tolist()
            assert holm(p_values, alpha=0.05) == dict(zip(p_values, oracle, strict=True))
            seen.update(oracle)
    assert seen == {True, False}


def test_the_error_of_a_kept_baseline_is_added_and_never_reduces_the_bound() -> None:
    assert float(kept_error(5.0, 3.0, 0.779)) == pytest.approx(4 + 0.779 * 3)
    assert float(kept_error(5.0, 3.0, 0.0)) == 5.0
    assert float(kept_error(5.0, 0.0, 0.779)) == 5.0
