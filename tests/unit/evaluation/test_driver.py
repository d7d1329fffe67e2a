"""A group-sequential evaluation over real HTTP: both sides served, interrupted, and against a stored baseline."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flagrelease.errors import DiedLater
from flagrelease.evaluation.driver import ServedSide, StoredSide, run_design
from flagrelease.evaluation.harness import Patience
from flagrelease.evaluation.harnesses.own import OwnHarness
from flagrelease.evaluation.question import Question
from flagrelease.evaluation.request import Endpoint, Evaluation, Tally
from flagrelease.evaluation.tasks import TASKS
from flagrelease.ports.retry import Backoff
from flagrelease.verdict.group_sequential import PlannedLooks, to_verdict
from flagrelease.verdict.samples import read_samples
from flagrelease.verdict.types import Decision, Verdict
from support.endpoints import Said, chat, serving

N = 60
QUESTIONS = tuple(
    Question(
        subset="all", id=f"q{number}", messages=({"role": "user", "content": f"question {number}"},), reference=number
    )
    for number in range(N)
)
EVALUATION = Evaluation(
    benchmark="made-up",
    task=TASKS["integer"],
    asks=(),
    parameters={"temperature": 0.7, "max_tokens": 16},
    concurrency=16,
)
DESIGN = PlannedLooks(
    questions=tuple((one.subset, one.id) for one in QUESTIONS),
    margin=0.15,
    repeats=8,
    fail_alpha=0.05,
    reference=False,
    chance=0.0,
)


class Model:
    """Right with a probability that differs by question; each seed gives another answer."""

    def __init__(self, name: str, loss: float = 0.0) -> None:
        self._name, self._loss = name, loss

    def __call__(self, request: dict[str, Any], _n: int) -> Said:
        number = int(request["messages"][-1]["content"].split()[-1])
        p = 0.2 + 0.75 * number / N - self._loss
        right = random.Random(f"{self._name} {number} {request['seed']}").random() < p
        return chat(f"It is \\boxed{{{number if right else number + 1}}}.")


class Killer:
    """Ends the evaluation after `after` reports, as killing the process would."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, _tally: Tally) -> None:
        self.left -= 1
        if self.left == 0:
            raise DiedLater("killed")


def side(base_url: str, into: Path, report: Any = lambda _tally: None) -> ServedSide:
    return ServedSide(
        harness=OwnHarness(Patience(backoff=Backoff(first=0.01, most=0.05, budget=0.0, attempts=3))),
        server=lambda: (Endpoint(base_url=base_url, model="m"), lambda: None),
        evaluation=EVALUATION,
        questions=QUESTIONS,
        into=into,
        report=lambda _look, tally: report(tally),
    )


def test_equal_models_pass_and_a_worse_one_fails(tmp_path: Path) -> None:
    with serving(Model("a")) as first, serving(Model("b")) as second, serving(Model("c", loss=0.3)) as third:
        baseline = side(first.base_url, tmp_path / "a.jsonl")
        candidate = side(second.base_url, tmp_path / "b.jsonl")
        same = run_design(DESIGN, baseline, candidate)
        worse = run_design(DESIGN, baseline, side(third.base_url, tmp_path / "c.jsonl"))
    assert (same.verdict, worse.verdict) == (Verdict.PASS, Verdict.FAIL)
    assert max(first.asked.values()) <= 8
    assert len(read_samples(tmp_path / "b.jsonl")) == same.pairs == sum(second.asked.values())
    verdict = to_verdict(DESIGN, "made-up", same, baseline.samples(), candidate.samples())
    assert (verdict.n, verdict.candidate.answers, verdict.verdict) == (same.n, same.pairs, Verdict.PASS)
    assert verdict.candidate_score - verdict.baseline_score == pytest.approx(verdict.difference)


def test_a_killed_evaluation_asks_nothing_twice_and_decides_the_same(tmp_path: Path) -> None:
    with serving(Model("a")) as first, serving(Model("b")) as second:
        uninterrupted = run_design(
            DESIGN, side(first.base_url, tmp_path / "a.jsonl"), side(second.base_url, tmp_path / "b.jsonl")
        )
    with serving(Model("a")) as first, serving(Model("b")) as second:
        decision: Decision | None = None
        for after in (1, 2, 1, 3, 10**6):
            killer = Killer(after)
            try:
                decision = run_design(
                    DESIGN,
                    side(first.base_url, tmp_path / "c.jsonl", killer),
                    side(second.base_url, tmp_path / "d.jsonl", killer),
                )
            except DiedLater:
                continue
        assert decision == uninterrupted
        samples = read_samples(tmp_path / "d.jsonl")
    assert len({sample.key for sample in samples}) == len(samples) == uninterrupted.pairs


def test_a_stored_baseline_is_only_read(tmp_path: Path) -> None:
    with serving(Model("a")) as first, serving(Model("b")) as second:
        before = side(first.base_url, tmp_path / "a.jsonl")
        before.ask(0, [("all", f"q{number}", repeat) for number in range(N) for repeat in range(8)])
        asked = sum(first.asked.values())
        design = replace(DESIGN, reference=True)
        decision = run_design(design, StoredSide(before.samples()), side(second.base_url, tmp_path / "b.jsonl"))
    assert decision.verdict is Verdict.PASS
    assert sum(first.asked.values()) == asked
    assert decision.pairs == sum(second.asked.values()) < asked
