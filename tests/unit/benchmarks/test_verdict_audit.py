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
    audit, random = opened("verdict_audit"), np.random.default_rng(1)
    p = audit.difficulty(kind, random, (50, 200))
    q = audit.lose(how, p, 0.05, random)
    assert ((q >= 0) & (q <= 1)).all()
    assert (p.mean(axis=1) - q.mean(axis=1))[p.mean(axis=1) > 0.1] == pytest.approx(0.05, abs=1e-6)
    if how == "break":
        assert ((q < p - 1e-12).sum(axis=1) < 0.7 * 200).all(), "it is in a part of the questions"


@pytest.mark.parametrize(("kind", "how"), [("strong", "logit"), ("bimodal", "logit"), ("binary", "break")])
@pytest.mark.parametrize("served", [False, True])
def test_a_loss_of_the_margin_passes_at_the_nominal_rate(kind: str, how: str, served: bool) -> None:
    audit = opened("verdict_audit")
    setting = replace(audit.AIME, kind=kind, served=served)
    assert audit.simulate(setting, 0.05, how, runs=RUNS, seed=5).passed <= allowed(0.05)


def test_a_loss_in_few_questions_is_not_missed_by_a_sample_of_them() -> None:
    """50 of 198 questions. By Wald's standard error, 10 % of the runs pass."""
    audit = opened("verdict_audit")
    setting = replace(audit.GPQA_D, n=50, repeats=4, population=198, kind="strong")
    assert audit.simulate(setting, 0.05, "break", runs=RUNS, seed=5).passed <= allowed(0.05)


def test_identical_stacks_pass_and_do_not_fail() -> None:
    audit = opened("verdict_audit")
    same = audit.simulate(replace(audit.AIME, repeats=64), 0.0, "logit", runs=RUNS, seed=5)
    assert same.passed >= 0.98 - 3 * math.sqrt(0.98 * 0.02 / RUNS)
    assert same.failed <= allowed(0.01)


@pytest.mark.parametrize("seed", [1])
def test_candidates_without_the_skill_never_pass(seed: int) -> None:
    rows = opened("verdict_audit").skill(10, seed, "")
    assert len(rows) == 2 + 13
    assert all("| 0 of 10 |" in row for row in rows[2:])
