"""The verdict's error rates, by the audit's generators: a few settings of its table, with fewer runs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from support.benchmark_programs import opened

RUNS = 300


def allowed(rate: float) -> float:
    """The rate, and three standard errors."""
    return rate + 3 * math.sqrt(rate * (1 - rate) / RUNS)


@pytest.mark.parametrize("kind", ["ushape", "flat", "bimodal", "strong", "weak", "binary"])
@pytest.mark.parametrize("how", ["logit", "break", "half", "mixed"])
def test_a_loss_is_exactly_what_it_is_said_to_be(kind: str, how: str) -> None:
    audit, random = opened("simulated"), np.random.default_rng(1)
    p = audit.difficulty(kind, random, (50, 200))
    q = audit.lose(how, p, 0.05, random)
    assert ((q >= 0) & (q <= 1)).all()
    assert (p.mean(axis=1) - q.mean(axis=1))[p.mean(axis=1) > 0.1] == pytest.approx(0.05, abs=1e-6)
    if how == "break":
        assert ((q < p - 1e-12).sum(axis=1) < 0.7 * 200).all(), "it is in a part of the questions"


@pytest.mark.parametrize(("kind", "how"), [("strong", "logit"), ("bimodal", "logit"), ("binary", "break")])
@pytest.mark.parametrize("served", [False, True])
def test_a_loss_of_the_margin_passes_at_the_nominal_rate(kind: str, how: str, served: bool) -> None:
    audit = opened("simulated")
    setting = replace(audit.AIME, kind=kind, served=served)
    assert audit.simulate(setting, 0.05, how, runs=RUNS, seed=5).passed <= allowed(0.05)


def test_a_loss_in_few_questions_is_not_missed_by_a_sample_of_them() -> None:
    """50 of 198 questions. By Wald's standard error, 10 % of the runs pass."""
    audit = opened("simulated")
    setting = replace(audit.GPQA_D, n=50, repeats=4, population=198, kind="strong")
    assert audit.simulate(setting, 0.05, "break", runs=RUNS, seed=5).passed <= allowed(0.05)


def test_identical_stacks_pass_and_do_not_fail() -> None:
    audit = opened("simulated")
    same = audit.simulate(replace(audit.AIME, repeats=64), 0.0, "logit", runs=RUNS, seed=5)
    assert same.passed >= 0.98 - 3 * math.sqrt(0.98 * 0.02 / RUNS)
    assert same.failed <= allowed(0.01)


@pytest.mark.parametrize(("benchmark", "candidates"), [("400 questions", 5), ("silent-baseline", 4)])
def test_candidates_without_the_skill_never_pass(benchmark: str, candidates: int) -> None:
    rows = opened("verdict_audit").skill(opened("tables").Order(runs=3, only=benchmark))
    assert len(rows) == 2 + candidates
    assert all(row.count("| 0 of 3 |") == 2 for row in rows[2:])


def test_batches_are_the_same_over_any_number_of_processes() -> None:
    audit, tables = opened("verdict_audit"), opened("tables")
    case = [(opened("simulated").AIME, 0.05, "logit")]
    whole = audit.tallies(tables.Order(runs=130), "", case)
    parts = [audit.ends(*case[0], runs, 1, part) for part, runs in ((0, 100), (1, 30))]
    assert [vars(each) for each in whole] == [vars(tables.Tally.of(parts))]


def test_a_loss_in_stories_of_different_sizes_is_exact() -> None:
    simulated = opened("simulated")
    for how in simulated.HOW:
        p, q = simulated.GPQA.sides(0.05, how, np.random.default_rng(1), 20)
        assert p.shape == (20, 1192)
        assert p.mean(axis=1) - q.mean(axis=1) == pytest.approx(0.05, abs=1e-6)
