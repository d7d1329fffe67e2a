import dataclasses
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagrelease.errors import ComparisonRefused
from flagrelease.verdict.fixed_sample import compare
from flagrelease.verdict.flips import differing
from flagrelease.verdict.noise import own_noise
from flagrelease.verdict.samples import Sample
from flagrelease.verdict.sensitivity import above_chance, silent_sides
from flagrelease.verdict.stats.subsets import worse_subsets
from flagrelease.verdict.types import BenchmarkVerdict, Verdict, worst_verdict
from support.answer_sets import answers, drawn, flipped

MMLU = {"mmlu": 0.05}


def judged(a: list[Sample], b: list[Sample], margin: float = 0.05) -> BenchmarkVerdict:
    return compare(a, b, margins={a[0].benchmark: margin}).benchmarks[a[0].benchmark]


# The table of the published card: scores on both sides, questions, margin, verdict. A fifth of the answers differ.
SEED = [
    ("aime", 30, 0.700, 0.733, 0.05, Verdict.INCONCLUSIVE),
    ("gpqa", 1192, 0.507, 0.503, 0.05, Verdict.PASS),
    ("gpqa_diamond", 198, 0.507, 0.503, 0.05, Verdict.INCONCLUSIVE),
    ("livebench", 910, 0.502, 0.488, 0.03, Verdict.INCONCLUSIVE),
    ("mmlu", 14042, 0.699, 0.699, 0.01, Verdict.PASS),
    ("musr", 756, 0.602, 0.607, 0.03, Verdict.PASS),
]


@pytest.mark.parametrize(("name", "n", "before", "after", "margin", "verdict"), SEED)
def test_the_card_s_table(name: str, n: int, before: float, after: float, margin: float, verdict: Verdict) -> None:
    right, then = round(n * before), round(n * after)
    one = judged(*flipped(n, right, then, n // 5 + (n // 5 - right - then) % 2, name), margin)
    assert (round(one.baseline_score, 3), one.n, one.repeats) == (round(right / n, 3), n, 1)
    assert one.difference == pytest.approx((then - right) / n)
    assert one.interval90[0] < one.difference < one.interval90[1]
    assert one.verdict is verdict
    assert (one.more_answers is not None) == (verdict is Verdict.INCONCLUSIVE)


def test_aime_says_how_many_more_answers_would_decide_it() -> None:
    one = judged(*flipped(30, 21, 22, 7, "aime"))
    assert one.verdict is Verdict.INCONCLUSIVE
    assert one.more_answers is not None
    assert 300 < one.more_answers < 1200  # nK ≈ 600 at p(1−p) = 0.12, by hand
    assert f"{one.more_answers} more answers on each side would decide it" in one.reason
    # With as many repeats as it asks for, identical sides pass as often as it promises.
    repeats = 1 + -(-one.more_answers // 30)
    p = np.random.default_rng(0).beta(0.6, 0.4, 30)
    passed = [
        judged(answers(drawn(2 * i, p, repeats)), answers(drawn(2 * i + 1, p, repeats))).verdict is Verdict.PASS
        for i in range(40)
    ]
    assert sum(passed) >= 24  # 80 % of 40, less 2.5 standard deviations


def test_equal_answers_pass_and_a_bad_release_fails() -> None:
    p = np.random.default_rng(1).beta(0.8, 0.5, 198)
    a, b = answers(drawn(1, p, 8)), answers(drawn(2, p, 8))
    same, worse = judged(a, b), judged(a, answers(drawn(3, np.clip(p - 0.1, 0, 1), 8)))
    assert same.verdict is Verdict.PASS
    assert same.reason.startswith("equivalent")
    assert worse.verdict is Verdict.FAIL
    assert worse.p_regression < 0.001
    assert worse.lost
    assert all(name.startswith("law/q") for name in worse.lost)


def test_a_significant_loss_inside_the_margin_passes_and_is_remarked() -> None:
    a, b = flipped(14042, 10000, 9950, 400, "mmlu")
    one = judged(a, b, 0.01)
    assert one.p_regression < 0.01
    assert one.verdict is Verdict.PASS
    assert "a significant loss, within the margin" in one.remarks


def test_a_large_gain_passes_and_is_remarked() -> None:
    one = judged(*flipped(500, 200, 300, 120, "mmlu"))
    assert one.verdict is Verdict.PASS
    assert one.reason == "non-inferior at a margin of 5 percentage points"
    assert any("broken baseline" in remark for remark in one.remarks)


def test_holm_keeps_one_of_many_from_failing_by_chance() -> None:
    a, b, margins = [], [], {}
    for number in range(6):
        name = f"b{number}"
        x, y = flipped(100, 60, 52 if number == 0 else 60, 20, name)
        a, b, margins[name] = a + x, b + y, 0.02
    result = compare(a, b, margins=margins)
    assert 0.01 < result.benchmarks["b0"].p_regression < 0.05
    assert result.benchmarks["b0"].verdict is Verdict.INCONCLUSIVE
    alone = compare(*flipped(100, 60, 52, 20, "b0"), margins=margins)
    assert alone.benchmarks["b0"].verdict is Verdict.FAIL


def test_the_cell_is_as_good_as_its_worst_benchmark() -> None:
    assert worst_verdict([Verdict.PASS, Verdict.INCONCLUSIVE]) is Verdict.INCONCLUSIVE
    assert worst_verdict([Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS]) is Verdict.FAIL
    assert worst_verdict([Verdict.PASS]) is Verdict.PASS
    assert worst_verdict([]) is Verdict.INCONCLUSIVE


def test_failed_and_truncated_answers_are_told() -> None:
    a, b = flipped(100, 60, 60, 4, "mmlu")
    b = [
        dataclasses.replace(one, correct=False, error="timeout", finish_reason=None)
        if i % 10 == 0
        else dataclasses.replace(one, finish_reason="length" if i % 2 else "stop")
        for i, one in enumerate(b)
    ]
    one = judged(a, b)
    assert (one.candidate.errors, one.candidate.truncated, one.baseline.errors) == (10, 50, 0)
    assert "10 of 100 answers of the candidate failed and count as wrong" in one.remarks
    assert "50 of 100 answers of the candidate were truncated" in one.remarks
    assert one.candidate_score < one.baseline_score


def test_clusters_from_question_ids_or_by_name_widen_the_interval() -> None:
    p = np.random.default_rng(5).random(64) < 0.6
    q = np.random.default_rng(6).random(64) < 0.6
    a, b = [[bool(x)] for x in np.repeat(p, 4)], [[bool(x)] for x in np.repeat(q, 4)]
    flat = judged(answers(a), answers(b))
    storied = judged(answers(a, story=4), answers(b, story=4))
    named = compare(
        answers(a), answers(b), margins=MMLU, clusters={"mmlu": {f"q{i}": f"story {i // 4}" for i in range(256)}}
    ).benchmarks["mmlu"]
    assert storied.interval90 == pytest.approx(named.interval90)
    assert storied.interval90[1] - storied.interval90[0] > 1.7 * (flat.interval90[1] - flat.interval90[0])


GOOD = answers([[True, False], [True, True], [False, True]])


def _other_prompt(one: Sample) -> Sample:
    return dataclasses.replace(one, prompt_sha256="0" * 64)


@pytest.mark.parametrize(
    ("a", "b", "what"),
    [
        (GOOD, [], "the candidate has no answers"),
        ([], GOOD, "the baseline has no answers"),
        (GOOD, GOOD[:-1], "the candidate is incomplete in mmlu"),
        (GOOD, GOOD[:4], "different questions of mmlu"),
        (GOOD[2:], GOOD, "different questions of mmlu"),
        (GOOD, [*GOOD, GOOD[0]], "the candidate answered mmlu/law/q0 twice"),
        (GOOD, [*GOOD[1:], dataclasses.replace(GOOD[0], repeat=7)], "the candidate is incomplete in mmlu"),
        (GOOD, [*GOOD[:2], *map(_other_prompt, GOOD[2:4]), *GOOD[4:]], "with different prompts"),
        (GOOD, [*GOOD[:3], _other_prompt(GOOD[3]), *GOOD[4:]], "two different prompts"),
        (GOOD, [dataclasses.replace(one, benchmark="gpqa") for one in GOOD], "has no answers to mmlu"),
        (
            GOOD,
            [dataclasses.replace(one, correct=False, error="HTTP 500") for one in GOOD],
            "all 6 answers of the candidate",
        ),
    ],
)
def test_what_must_not_be_compared_is_refused(a: list[Sample], b: list[Sample], what: str) -> None:
    with pytest.raises(ComparisonRefused, match=what) as refused:
        compare(a, b, margins={"mmlu": 0.05, "gpqa": 0.05})
    assert refused.value.exit_code == 2
    assert refused.value.hint or "twice" in what


@pytest.mark.parametrize("margin", [0.0, -0.1, 1.5, float("nan")])
def test_a_margin_is_a_fraction(margin: float) -> None:
    with pytest.raises(ComparisonRefused, match="margin of mmlu"):
        compare(GOOD, GOOD, margins={"mmlu": margin})


def test_a_missing_margin_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ComparisonRefused, match="no margin for mmlu") as refused:
        compare(GOOD, GOOD, margins={"mmlu5": 0.05})
    assert "mmlu5" in refused.value.hint


@given(st.randoms(use_true_random=False), st.integers(2, 12), st.integers(1, 3))
def test_order_says_nothing(shuffler: random.Random, n: int, k: int) -> None:
    a = [[shuffler.random() < 0.6 for _ in range(k)] for _ in range(n)]
    b = [[shuffler.random() < 0.6 for _ in range(k)] for _ in range(n)]
    one, two = answers(a), answers(b)
    mixed, also = one.copy(), two.copy()
    shuffler.shuffle(mixed)
    shuffler.shuffle(also)
    here, there = judged(one, two), judged(mixed, also)
    assert here.verdict is there.verdict
    assert here.interval90 == pytest.approx(there.interval90)
    assert sorted(here.lost) == sorted(there.lost)


WORSE_FIRST = [Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS]
RIGHT = st.lists(st.booleans(), min_size=1, max_size=60)


@given(RIGHT, st.data())
def test_one_more_wrong_answer_never_betters_a_verdict(right: list[bool], data: st.DataObject) -> None:
    """One answer to each question; with repeats, a wrong answer can also make a lucky question less of an outlier."""
    candidate = data.draw(st.lists(st.booleans(), min_size=len(right), max_size=len(right)))
    at = data.draw(st.integers(0, len(right) - 1))
    spoilt = [*candidate[:at], False, *candidate[at + 1 :]]
    one, other = (judged(answers([[x] for x in right]), answers([[x] for x in side])) for side in (candidate, spoilt))
    assert WORSE_FIRST.index(other.verdict) <= WORSE_FIRST.index(one.verdict)
    assert other.p_regression <= one.p_regression + 1e-12


@given(st.randoms(use_true_random=False), st.integers(1, 60), st.integers(1, 4), st.floats(0.01, 0.5), st.floats(1, 2))
def test_a_wider_margin_never_worsens_a_verdict(
    draw: random.Random, n: int, k: int, margin: float, more: float
) -> None:
    sides = [answers([[draw.random() < p for _ in range(k)] for _ in range(n)]) for p in (0.8, draw.random())]
    narrow, wide = judged(*sides, margin), judged(*sides, margin * more)
    if not wide.sensitive:  # a wider margin asks more of the baseline
        assert wide.verdict is not Verdict.PASS
        return
    assert WORSE_FIRST.index(narrow.verdict) <= WORSE_FIRST.index(wide.verdict)


@given(st.randoms(use_true_random=False), st.integers(1, 60), st.integers(1, 4), st.floats(0.01, 0.5))
def test_nothing_fails_against_itself(draw: random.Random, n: int, k: int, margin: float) -> None:
    same = answers([[draw.random() < 0.6 for _ in range(k)] for _ in range(n)])
    one = judged(same, same, margin)
    assert one.verdict is not Verdict.FAIL
    assert one.difference == 0
    assert one.interval90[0] < 0 < one.interval90[1]
    assert one.p_regression >= 0.5 - 1e-12


def test_a_benchmark_near_its_chance_level_is_not_sensitive() -> None:
    right = answers([[n % 4 == 0] for n in range(400)])
    found = compare(right, right, margins=MMLU, chances={"mmlu": 0.25})
    same = found.benchmarks["mmlu"]
    assert (same.verdict, same.sensitive, found.verdict) == (Verdict.INCONCLUSIVE, False, Verdict.INCONCLUSIVE)
    assert same.reason.startswith("not sensitive: the baseline's score may be only 0 percentage points above")
    assert same.reason in found.reason
    assert same.more_answers is None
    worse = compare(right, answers([[False]] * 400), margins=MMLU, chances={"mmlu": 0.25}).benchmarks["mmlu"]
    assert (worse.verdict, worse.sensitive) == (Verdict.FAIL, False)
    assert any(remark.startswith("not sensitive") for remark in worse.remarks)
    assert compare(right, right, margins=MMLU).benchmarks["mmlu"].verdict is Verdict.PASS


def test_a_sensitive_benchmark_decides_without_one_that_is_not() -> None:
    strong = answers([[n % 4 > 0] for n in range(400)], "arc")
    weak = answers([[n % 4 == 0] for n in range(400)])
    found = compare([*strong, *weak], [*strong, *weak], margins={"mmlu": 0.05, "arc": 0.05}, chances={"mmlu": 0.25})
    assert found.verdict is Verdict.PASS
    assert "mmlu" not in found.reason
    other = [dataclasses.replace(each, correct=not each.correct) for each in strong]
    open_ = compare([*strong, *weak], [*other, *weak], margins={"mmlu": 0.05, "arc": 0.9}, chances={"mmlu": 0.25})
    assert open_.verdict is Verdict.INCONCLUSIVE


def test_all_repeats_of_a_complete_benchmark_show_its_skill() -> None:
    """Its questions are fixed, so that 30 questions with 16 repeats are 480 answers; of a sample they are 30."""
    right = answers([[n % 6 == 0] * 16 for n in range(30)], "aime")
    margins = {"aime": 0.05}
    assert compare(right, right, margins=margins).benchmarks["aime"].sensitive
    assert not compare(right, right, margins=margins, populations={"aime": 900}).benchmarks["aime"].sensitive


def test_a_loss_in_few_questions_is_not_excluded_by_a_sample_without_any() -> None:
    """30 of 900 questions that are all right on both sides, 16 times each: 5 % of the 900 may be lost altogether."""
    right = answers([[n % 6 > 0 or repeat == 0 for repeat in range(16)] for n in range(30)], "aime")
    margins = {"aime": 0.05}
    complete = compare(right, right, margins=margins).benchmarks["aime"]
    sample = compare(right, right, margins=margins, populations={"aime": 900}).benchmarks["aime"]
    assert (complete.verdict, sample.verdict) == (Verdict.PASS, Verdict.INCONCLUSIVE)
    assert sample.interval90[0] < complete.interval90[0]
    assert sample.interval90[0] == pytest.approx(-1.699 * (29 / 30 * 0.0475 / 30) ** 0.5, rel=1e-3)


@pytest.mark.parametrize("side", ["baseline", "candidate"])
def test_a_side_without_answers_is_no_evaluation(side: str) -> None:
    """Empty answers are no agreement, and no equality of scores."""
    right = answers([[n % 4 > 0] for n in range(400)])
    quiet = [
        dataclasses.replace(each, answer=None, correct=False) if n % 2 or n < 10 else each
        for n, each in enumerate(right)
    ]
    sides = (quiet, right) if side == "baseline" else (right, quiet)
    found = judged(*sides)
    assert found.verdict is not Verdict.PASS
    nothing = [dataclasses.replace(each, answer=None, correct=False) for each in right]
    both = compare(nothing, nothing, margins=MMLU).benchmarks["mmlu"]
    assert both.verdict is Verdict.INCONCLUSIVE
    assert "more than half of the answers of the baseline and the candidate are empty" in both.reason
    assert silent_sides(*sides) == (side,)
    assert silent_sides(right, right) == ()
    assert differing(nothing, nothing) == 400
    assert differing(right, right) == 0


def test_a_subject_that_collapses_inside_a_score_that_holds_is_named() -> None:
    """One of 20 subjects loses half of its 150 questions, which are 1.25 points of the benchmark."""
    rows = [[n % 10 > 0] for n in range(3000)]
    a = [dataclasses.replace(each, subset=f"subject {n // 150}") for n, each in enumerate(answers(rows))]
    fallen = [dataclasses.replace(each, correct=False) if n < 42 else each for n, each in enumerate(a)]
    one = judged(a, fallen)
    assert one.verdict is Verdict.PASS
    assert [remark for remark in one.remarks if remark.startswith("worse in")] == [
        "worse in subject 0: 0.653 instead of 0.900 over 150 questions, p = 4e-12"
    ]
    assert not any(remark.startswith("worse in") for remark in judged(a, a).remarks)
    every = [dataclasses.replace(each, correct=n % 10 > 4) for n, each in enumerate(a)]
    assert "worse in 17 more subsets" in judged(a, every).remarks
    alone = answers(rows)
    assert not any(remark.startswith("worse in") for remark in judged(alone, answers([[False]] * 3000)).remarks)


def test_subsets_are_named_by_chance_in_few_benchmarks() -> None:
    random, named = np.random.default_rng(4), 0
    subsets = [f"s{n % 10}" for n in range(400)]
    for _ in range(100):
        p = random.beta(0.8, 0.5, 400)
        sides = [answers((random.random((400, 2)) < p[:, None]).tolist()) for _ in range(2)]
        a, b = ([dataclasses.replace(each, subset=subsets[n // 2]) for n, each in enumerate(side)] for side in sides)
        named += bool(worse_subsets(a, b))
    assert named <= 11  # 5 %, within three standard errors


@given(st.integers(0, 300), st.integers(1, 300), st.sampled_from([0.0, 0.25]))
def test_the_bounds_of_the_baseline_are_wilson_s(right: int, n: int, chance: float) -> None:
    """A score p lies at a bound where |right/n − p| is z standard errors at p."""
    right = min(right, n)
    for bound in above_chance(right / n, n, chance):
        p = bound + chance
        assert 0 <= p <= 1
        if 0 < p < 1:
            assert abs(right / n - p) == pytest.approx(1.6448536269514722 * (p * (1 - p) / n) ** 0.5, abs=1e-6)


def test_a_baseline_is_its_own_noise_where_it_was_asked_twice() -> None:
    p = np.random.default_rng(5).beta(0.8, 0.5, 198)
    grown = answers(drawn(1, p, 8))
    floor = own_noise([one for one in grown if one.repeat < 4 or one.question_id == "q0"])
    assert floor is not None
    assert floor.repeats == 2
    assert floor.interval90[0] < floor.difference < floor.interval90[1]
    assert 0.05 < floor.flip_rate < 0.5
    assert own_noise([one for one in grown if one.repeat == 0]) is None
    assert own_noise([]) is None
