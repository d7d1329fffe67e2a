"""Group-sequential boundaries, allocation by variance, and the design that a harness drives."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from flagrelease.errors import ComparisonRefused
from flagrelease.verdict import wording
from flagrelease.verdict.stats.design import Design, Item, SequentialEvaluation
from flagrelease.verdict.stats.paired import Side
from flagrelease.verdict.stats.planner import GUESS, expected, forecast, outlook, pair_variance, plan
from flagrelease.verdict.stats.sequential import Progress, allocate
from flagrelease.verdict.stats.spending import characteristics, inflation, limits, share_spent
from flagrelease.verdict.types import Answer, Ask, Decision, Verdict
from support.benchmark_programs import opened


@pytest.mark.parametrize(
    ("times", "exponent"), [((0.3, 0.7, 1.0), 1.0), ((0.1, 0.15, 0.9), 2.0), ((0.5, 1.0, 1.3), 0.5)]
)
def test_the_boundary_spends_what_it_says(times: tuple[float, ...], exponent: float) -> None:
    """Against scipy's multivariate normal: the canonical joint distribution, cov(Z_s, Z_t) = √(s/t)."""
    found = limits(times, 0.05, exponent)
    covariance = [[math.sqrt(min(s, t) / max(s, t)) for t in times] for s in times]
    for looks in range(1, len(times) + 1):
        shared = np.array(covariance)[:looks, :looks]
        crossed = 1 - multivariate_normal.cdf(found[:looks], np.zeros(looks), shared, abseps=1e-8)
        assert crossed == pytest.approx(0.05 * min(times[looks - 1], 1) ** exponent, abs=2e-6)


def test_one_look_is_the_fixed_design() -> None:
    assert limits((1.0,), 0.05, 1.0)[0] == pytest.approx(1.6448536, abs=1e-6)
    assert inflation(looks=1, alpha=0.05, power=0.8, exponent=1.0) == pytest.approx(1, abs=1e-6)


def test_the_design_s_characteristics_are_those_of_simulated_walks() -> None:
    looks, alpha, power = 5, 0.05, 0.9
    factor = inflation(looks=looks, alpha=alpha, power=power, exponent=1.0)
    z = limits(tuple(np.arange(1, looks + 1) / looks), alpha, 1.0)
    reach = (1.6448536 + 1.2815516) * math.sqrt(factor)
    random, walks = np.random.default_rng(1), 200_000
    times = np.arange(1, looks + 1) / looks
    for drop in (0.0, 0.5, 1.0):
        steps = random.normal(-drop * reach / looks, math.sqrt(1 / looks), (walks, looks))
        here = np.cumsum(steps, axis=1) / np.sqrt(times)
        up, down = here + reach * np.sqrt(times) > z, here < -z
        first = np.where((up | down).any(axis=1), (up | down).argmax(axis=1), looks - 1)
        lanes = np.arange(walks)
        passed = up[lanes, first].mean()
        exact = characteristics(drop=drop, looks=looks, alpha=alpha, power=power, exponent=1.0, factor=factor)
        assert exact.passes == pytest.approx(passed, abs=4e-3)
        assert exact.fails == pytest.approx((down & ~up)[lanes, first].mean(), abs=4e-3)
        assert exact.information == pytest.approx(factor * times[first].mean(), abs=4e-3)


@settings(max_examples=50)
@given(st.integers(0, 2**31), st.integers(2, 60), st.integers(1, 400))
def test_counts_are_expectations_rounded(seed: int, n: int, pairs: int) -> None:
    random = np.random.default_rng(seed)
    stage = allocate(random.uniform(0.001, 0.5, (1, n)), np.array([float(pairs)]), random.random(1))
    assert abs(stage.expected.sum() - pairs) < 1e-6
    assert (np.abs(stage.count - stage.expected) < 1 + 1e-6).all()
    assert abs(int(stage.count.sum()) - pairs) <= 1


def test_allocation_by_variance_is_unbiased_where_plain_means_are_not() -> None:
    """A loss of 18 points on easy questions, asked more where the first answers differed."""
    random, runs, n = np.random.default_rng(2), 4000, 20
    p, q = np.full((runs, n), 0.95), np.full((runs, n), 0.77)
    progress = Progress.start(runs, n)
    a, b = random.binomial(2, p), random.binomial(2, q)
    progress = progress.breadth(np.ones(n, bool), 2, a.astype(float), b.astype(float))
    for _ in range(3):
        stage = allocate(progress.variance(), np.full(runs, 3.0 * n), random.random(runs))
        c, d = random.binomial(stage.count, p), random.binomial(stage.count, q)
        progress = progress.depth(stage, c.astype(float), d.astype(float))
        a, b = a + c, b + d
    estimate = progress.estimate(np.arange(n))
    noise = 4 * float(estimate.difference.std()) / math.sqrt(runs)
    assert abs(float(estimate.difference.mean()) + 0.18) < noise
    plain = float(((b - a) / progress.asked).mean())
    assert plain > -0.18 + 2 * noise  # hides a part of the loss
    # and the standard error is honest
    assert float((estimate.error**2).mean()) == pytest.approx(float(estimate.difference.var()), rel=0.12)


@pytest.mark.parametrize(("case", "reference"), [(0, False), (0, True), (1, False), (1, True)])
def test_simulated_error_rates_keep_their_level(case: int, reference: bool) -> None:
    """False PASS at a loss of exactly the margin, false FAIL at none: 5 %, within three standard deviations."""
    benchmark = opened("sequential")
    one, runs = benchmark.CASES[case], 400
    allowed = 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    same = benchmark.sequential(one, 0.0, seed=3, runs=runs, reference=reference)
    worse = benchmark.sequential(one, one.margin, seed=4, runs=runs, reference=reference)
    fixed = benchmark.fixed(one, 0.0, seed=3, runs=runs, reference=reference)
    assert same.failed <= allowed
    assert worse.passed <= allowed
    assert same.passed >= 0.99 - 3 * math.sqrt(0.99 * 0.01 / runs)
    assert same.answers < 0.7 * fixed.answers


def items(n: int, story: int = 1) -> list[Item]:
    return [Item("law", f"q{i}", f"story {i // story}") for i in range(n)]


class Server:
    """Answers with each question's own probability, the same answer for the same repeat, and counts."""

    def __init__(self, seed: int, p: np.ndarray) -> None:
        self._seed, self._p = seed, p
        self.answers: dict[Answer, float] = {}

    def answer(self, wanted: tuple[Answer, ...]) -> None:
        for one in wanted:
            assert one not in self.answers, "asked twice"
            number, repeat = int(one[1][1:]), one[2]
            self.answers[one] = float(np.random.default_rng([self._seed, number, repeat]).random() < self._p[number])


def drive(evaluation: SequentialEvaluation, a: Server, b: Server) -> tuple[Decision, int]:
    for asked in range(100):
        step = evaluation.next(a.answers, b.answers)
        if isinstance(step, Decision):
            return step, asked
        a.answer(step.baseline)
        b.answer(step.candidate)
    raise AssertionError("never ends")


def test_equal_sides_pass_and_a_damaged_one_fails() -> None:
    p = np.random.default_rng(1).beta(0.8, 0.5, 198)
    evaluation = SequentialEvaluation(design=Design(questions=198, margin=0.05, repeats=20), items=items(198))
    same, _ = drive(evaluation, Server(1, p), Server(2, p))
    assert same.verdict is Verdict.PASS
    assert same.interval90[0] > -0.05
    assert same.pairs < 20 * 198 / 2
    damaged, looks = drive(evaluation, Server(1, p), Server(3, p * 0.8))
    assert damaged.verdict is Verdict.FAIL
    assert damaged.interval90[1] < 0
    assert damaged.baseline_score == pytest.approx(float(p.mean()), abs=0.2)
    assert damaged.candidate_score == pytest.approx(damaged.baseline_score + damaged.difference)
    assert damaged.p_regression < 0.05
    assert looks == damaged.looks


def test_an_exhausted_budget_is_inconclusive_and_says_how_much_is_lacking() -> None:
    p = np.random.default_rng(2).beta(0.6, 0.4, 30)
    evaluation = SequentialEvaluation(design=Design(questions=30, margin=0.02, repeats=2), items=items(30))
    decision, _ = drive(evaluation, Server(5, p), Server(6, p))
    assert (decision.verdict, decision.pairs, decision.n) == (Verdict.INCONCLUSIVE, 60, 30)
    reason = wording.reason(decision.ruling, decision.evidence, after=decision.pairs, more=decision.more_answers)
    more = int(reason.split("about ")[1].split()[0])
    assert more == decision.more_answers
    assert 2000 < more < 9000  # 2·0.12·((z_.95 + z_.90)/0.02)² ≈ 5,100 pairs


def test_one_answer_each_is_never_asked_for_more() -> None:
    """A greedy server: repeats say nothing, so the design takes new questions until there are none."""
    p = (np.random.default_rng(3).random(400) < 0.6).astype(float)
    evaluation = SequentialEvaluation(design=Design(questions=400, margin=0.05, repeats=1), items=items(400))
    a, b = Server(1, p), Server(2, p)
    decision, looks = drive(evaluation, a, b)
    assert decision.verdict is Verdict.PASS
    assert {repeat for _, _, repeat in b.answers} == {0}
    assert decision.n < 400
    assert decision.n == decision.pairs == len(b.answers)
    assert looks < 10


def test_a_killed_evaluation_asks_only_what_is_missing() -> None:
    p = np.random.default_rng(4).beta(0.6, 0.4, 30)
    evaluation = SequentialEvaluation(design=Design(questions=30, margin=0.1, repeats=30), items=items(30))
    whole_a, whole_b = Server(1, p), Server(2, p)
    whole, _ = drive(evaluation, whole_a, whole_b)
    a, b = Server(1, p), Server(2, p)
    random = np.random.default_rng(5)
    for _ in range(1000):
        step = evaluation.next(a.answers, b.answers)
        if isinstance(step, Decision):
            break
        # killed anywhere: some of the answers are there, in no particular order
        a.answer(tuple(one for one in step.baseline if random.random() < 0.4))
        b.answer(tuple(one for one in step.candidate if random.random() < 0.6))
    assert step == whole
    assert (a.answers, b.answers) == (whole_a.answers, whole_b.answers)


def test_a_baseline_that_was_evaluated_before_is_not_asked_again() -> None:
    p = np.random.default_rng(6).beta(0.8, 0.5, 198)
    evaluation = SequentialEvaluation(design=Design(questions=198, margin=0.05, repeats=20), items=items(198))
    a, b = Server(1, p), Server(2, p)
    a.answer(tuple(("law", f"q{i}", repeat) for i in range(198) for repeat in range(16)))
    first = evaluation.next(a.answers, b.answers)
    assert isinstance(first, Ask)
    assert first.baseline == ()
    assert first.candidate


def test_a_baseline_as_reference_is_taken_as_it_is_and_only_the_candidate_is_asked() -> None:
    p = np.random.default_rng(6).beta(0.8, 0.5, 198)
    design = Design(questions=198, margin=0.05, repeats=20)
    evaluation = SequentialEvaluation(design=design, items=items(198), reference=True)
    a, b, worse = Server(1, p), Server(2, p), Server(3, p * 0.8)
    with pytest.raises(ComparisonRefused, match="198 of 198 questions have fewer than two"):
        evaluation.next(a.answers, b.answers)
    a.answer(tuple(("law", f"q{i}", repeat) for i in range(198) for repeat in range(32)))
    same, _ = drive(evaluation, a, b)
    damaged, _ = drive(evaluation, a, worse)
    assert (same.verdict, damaged.verdict) == (Verdict.PASS, Verdict.FAIL)
    assert len(a.answers) == 198 * 32
    assert same.pairs == len(b.answers) < 198 * 4


def test_a_reference_too_noisy_for_the_margin_ends_inconclusive() -> None:
    p = np.random.default_rng(6).beta(0.6, 0.4, 30)
    design = Design(questions=30, margin=0.01, repeats=20)
    evaluation = SequentialEvaluation(design=design, items=items(30), reference=True)
    a, b = Server(11, p), Server(12, p)
    a.answer(tuple(("law", f"q{i}", repeat) for i in range(30) for repeat in range(2)))
    decision, looks = drive(evaluation, a, b)
    assert (decision.verdict, decision.pairs) == (Verdict.INCONCLUSIVE, 600)
    assert looks <= 12


@pytest.mark.parametrize("story", [1, 100])
def test_one_question_or_one_story_is_never_certainty(story: int) -> None:
    """Neither 300 answers to one question, nor 100 questions about one story, show how others would be answered."""
    n = story
    design = Design(questions=n, margin=0.3, repeats=300 // n, reserve=0.2)
    for loss in (0.0, 0.9):
        evaluation = SequentialEvaluation(design=design, items=items(n, story=story))
        decision, _ = drive(evaluation, Server(1, np.full(n, 0.95)), Server(2, np.full(n, 0.95 - loss)))
        assert decision.verdict is Verdict.INCONCLUSIVE
        assert decision.interval90 == (-1.0, 1.0)


@pytest.mark.parametrize(("population", "passed"), [(50, True), (2000, False)])
def test_a_sample_of_questions_does_not_exclude_a_loss_in_others(population: int, passed: bool) -> None:
    """50 questions that are always right on both sides: all there are, or of 2000, of which 5 % may be lost."""
    evaluation = SequentialEvaluation(
        design=Design(questions=50, margin=0.05, repeats=16), items=items(50), population=population
    )
    decision, _ = drive(evaluation, Server(1, np.ones(50)), Server(2, np.ones(50)))
    assert (decision.verdict is Verdict.PASS) is passed
    answers = decision.pairs
    twice = Progress.start(1, 50).breadth(np.ones(50, bool), 2, np.ones(50), np.ones(50))
    for wald in (0.001, 0.03):
        seen = max(wald**2 - 2 / 100**2, 0)  # without the additional flips
        expected = max(wald**2, seen + 0.0475 * (1 - 50 / population) / 50, 0.0475 / 100)
        assert float(evaluation.lower_error(np.array([wald]), twice)[0]) == pytest.approx(math.sqrt(expected))
    assert answers >= 80  # 0.95^60 = 5 %


def test_an_open_verdict_goes_on_while_there_is_budget() -> None:
    """Half of the margin is lost, so that the planned information often does not decide."""
    p = np.random.default_rng(1).beta(0.8, 0.5, 198)
    undecided = []
    for reserve in (0.0, 0.2):
        design = Design(questions=198, margin=0.05, repeats=40, reserve=reserve)
        evaluation = SequentialEvaluation(design=design, items=items(198))
        ended = [drive(evaluation, Server(2 * i, p), Server(2 * i + 1, p * 0.96))[0] for i in range(12)]
        undecided.append([each for each in ended if each.verdict is Verdict.INCONCLUSIVE])
        assert all(each.pairs == design.budget for each in undecided[-1]) is bool(reserve)
    assert len(undecided[1]) < len(undecided[0])


@pytest.mark.parametrize("exponent", [0.7, 1.0])
def test_the_reserve_is_spent_beyond_the_plan_and_never_used_up(exponent: float) -> None:
    times = np.array([0.0, 0.25, 1.0, 2.0, 100.0])
    share = share_spent(times, exponent, 0.2)
    assert share == pytest.approx([0, 0.8 * 0.25**exponent, 0.8, 0.9, 0.998])
    assert share_spent(times, exponent, 0.0) == pytest.approx([0, 0.25**exponent, 1, 1, 1])
    found = limits((0.5, 1.0, 2.0), 0.05, exponent, last=True, reserve=0.2)
    covariance = [[math.sqrt(min(s, t) / max(s, t)) for t in (0.5, 1, 2)] for s in (0.5, 1, 2)]
    assert 1 - multivariate_normal.cdf(found, np.zeros(3), covariance, abseps=1e-8) == pytest.approx(0.05, abs=2e-6)


def test_weights_do_not_show_a_difference_beyond_the_scores() -> None:
    """Answers to rarely asked questions weigh more than one; a candidate without any right answer has the score 0."""
    p = np.random.default_rng(1).beta(5, 0.5, 30)
    evaluation = SequentialEvaluation(design=Design(questions=30, margin=0.05, repeats=16), items=items(30))
    for seed in range(5):
        decision, _ = drive(evaluation, Server(seed, p), Server(9, np.zeros(30)))
        low, high = decision.interval90
        assert -1 <= low <= decision.difference <= high <= 1
        assert decision.difference >= -decision.baseline_score
        assert decision.candidate_score >= 0


def test_dependent_questions_take_more_answers() -> None:
    p = np.repeat(np.random.default_rng(7).random(60), 4)
    q = np.clip(p + np.repeat(np.random.default_rng(8).normal(0, 0.2, 60), 4), 0, 1)
    design = Design(questions=240, margin=0.05, repeats=30)
    flat, _ = drive(SequentialEvaluation(design=design, items=items(240)), Server(1, p), Server(2, q))
    storied, _ = drive(SequentialEvaluation(design=design, items=items(240, story=4)), Server(1, p), Server(2, q))
    wide, narrow = (one.interval90[1] - one.interval90[0] for one in (storied, flat))
    assert storied.pairs > flat.pairs or wide > narrow


def test_the_plan_is_what_the_rule_of_thumb_says() -> None:
    """nK ≈ 2·E[p(1−p)]·((z_.95 + z_.80)/δ)²: 593 pairs for AIME at five points."""
    aime = plan(margin=0.05, questions=30, variance=0.24)
    assert aime.repeats in (20, 21)
    assert 0.8 <= aime.passes(0.0) < 0.85
    assert aime.passes(0.05) <= 0.05
    assert aime.finds(0.05) >= 0.8
    mmlu = plan(margin=0.01, questions=14042, variance=0.156)
    assert (mmlu.repeats, mmlu.questions) == (1, pytest.approx(9645, abs=15))


def test_a_plan_that_no_repeats_can_save_says_how_many_questions_it_takes() -> None:
    hopeless = plan(margin=0.02, questions=30, variance=0.2, between=0.05)
    assert not hopeless.enough
    assert hopeless.questions > 1000
    assert hopeless.passes(0.0) == pytest.approx(0.8, abs=0.01)


def test_the_planner_s_power_is_that_of_simulated_evaluations() -> None:
    random, proposed = np.random.default_rng(9), plan(margin=0.05, questions=198, variance=0.268)
    p = random.beta(0.8, 0.5, (4000, 198))
    d = (random.binomial(proposed.repeats, p) - random.binomial(proposed.repeats, p)) / proposed.repeats
    low = d.mean(axis=1) - 1.653 * d.std(axis=1, ddof=1) / math.sqrt(198)
    assert float((low > -0.05).mean()) == pytest.approx(proposed.passes(0.0), abs=0.03)


def test_the_variance_of_a_pair_comes_from_a_baseline_with_repeats() -> None:
    random = np.random.default_rng(10)
    right = random.binomial(8, random.beta(0.8, 0.5, 5000)).astype(float)
    side = Side(np.full(5000, 8), right, right)
    assert pair_variance(side) == pytest.approx(2 * 0.8 * 0.5 / (1.3 * 2.3), abs=0.01)
    assert pair_variance(Side(np.ones(3, np.int64), np.ones(3), np.ones(3))) == GUESS


def test_a_sequential_design_costs_less_than_the_fixed_one_it_matches() -> None:
    proposed = plan(margin=0.05, questions=198, power=0.9)
    none, large = expected(proposed, 0.0), expected(proposed, 0.10)
    assert none.passes == pytest.approx(0.9, abs=1e-6)
    assert none.information < 0.64
    assert large.information < 0.28
    assert large.fails > 0.999


def test_a_forecast_tells_cost_and_power() -> None:
    aime = forecast("aime", Design(questions=30, margin=0.05, repeats=1), variance=0.24)
    assert aime.answers == 30
    assert aime.passes < 0.2
    assert aime.finds[0.1] < 0.35
    assert aime.needed.repeats == 21
    assert aime.sequential[0.0].pairs <= 30
    better = forecast("aime", Design(questions=30, margin=0.05, repeats=32), variance=0.24)
    assert better.passes > 0.9
    assert better.finds[0.02] < better.finds[0.05] < better.finds[0.1]
    assert better.sequential[0.0].pairs < 0.65 * better.answers
    assert better.sequential[0.1].pairs < 0.3 * better.answers
    assert better.sequential[0.1].fails > 0.99 > 0.05 > better.sequential[0.0].fails


@pytest.mark.parametrize(("case", "reference"), [(0, False), (0, True), (1, False), (1, True)])
def test_the_outlook_is_that_of_simulated_evaluations(case: int, reference: bool) -> None:
    """Which asked all questions alike, as the outlook takes it. It knows the variance; they have to estimate it."""
    one, random = opened("sequential").CASES[case], np.random.default_rng(12)
    design = Design(questions=one.n, margin=one.margin, repeats=100)
    p, q = one.draw(random, 400, 0.0)
    repeats = one.reference if reference else 0
    simulated = opened("simulated")
    setting = simulated.Setting(
        name=one.name,
        n=one.n,
        repeats=design.repeats,
        margin=one.margin,
        kind="beta",
        served=not reference,
        by_variance=False,
        known=repeats,
        further=(("power", design.power), ("reserve", design.reserve)),
        guarded=False,
    )
    seen = simulated.Many(setting, p, q, random).run()
    told = outlook(design, 0.0, variance=2 * one.variance, reference=repeats)
    assert told.pairs == pytest.approx(float(seen.answers.mean()), rel=0.25)
    assert told.passes == pytest.approx(seen.passed, abs=0.05)


def test_an_evaluation_that_ends_before_its_design_spends_the_rest_at_its_last_look() -> None:
    times = (0.2, 0.4)
    found = limits(times, 0.05, 1.0, last=True)
    covariance = [[1.0, math.sqrt(0.5)], [math.sqrt(0.5), 1.0]]
    assert 1 - multivariate_normal.cdf(found, np.zeros(2), covariance, abseps=1e-8) == pytest.approx(0.05, abs=2e-6)


def test_stages_grow_where_a_reference_has_noise_of_its_own() -> None:
    """Equal steps of information: v/(1/I − V) answers bring the difference's information to I."""
    design = Design(questions=198, margin=0.05, repeats=40)
    progress = Progress.against(np.full((1, 198), 16.0), np.full((1, 198), 32))
    noise = 0.5 / design.information
    alike = [float(design.stage_pairs(progress, number)[0]) for number in range(1, 11)]
    growing = [float(design.stage_pairs(progress, number, noise)[0]) for number in range(1, 11)]
    assert max(alike) - min(alike) <= 1
    assert growing == sorted(growing)
    v = float(progress.variance()[0, 0])
    assert sum(growing) == pytest.approx(v / (1 / design.information - noise), rel=0.01)
    assert sum(alike) == pytest.approx(v * design.information, rel=0.02)
