"""Simulated evaluations that end in the product's own verdict on samples: candidates without the skill, failed answers.

Imported by verdict_audit.py. The design reads samples and asks for answers as in a release (`evaluation/driver.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import nan

import numpy as np
from simulated import Floats, Random, Setting

from flagrelease.verdict.attempts import level
from flagrelease.verdict.fixed_sample import compare
from flagrelease.verdict.group_sequential import PlannedLooks, interim_analyses, to_verdict, unsettled
from flagrelease.verdict.rule import SENSITIVE
from flagrelease.verdict.samples import Sample
from flagrelease.verdict.sensitivity import above_chance
from flagrelease.verdict.types import BASELINE_WEIGHT, FAIL_ALPHA, RESERVE, Answer, Decision, Verdict

WITHOUT_SKILL = ("dead", "silent", "always A", "always refuses", "guesses")
"""Where answers cannot be guessed (chance 0), "guesses" is not simulated."""


@dataclass(frozen=True, kw_only=True)
class Weak:
    """A benchmark with a baseline that hardly knows more than nothing."""

    name: str
    n: int
    repeats: int
    """Of the kept baseline; with one, both sides are asked."""
    margin: float
    score: float
    """The baseline's."""
    chance: float


WEAK = (
    Weak(name="GSM8K", n=880, repeats=1, margin=0.02, score=0.0125, chance=0.0),
    Weak(name="GSM8K", n=880, repeats=1, margin=0.02, score=0.008, chance=0.0),
    Weak(name="AIME", n=30, repeats=16, margin=0.05, score=0.01, chance=0.0),
    Weak(name="AIME", n=30, repeats=16, margin=0.05, score=0.02, chance=0.0),
    Weak(name="LiveBench", n=1000, repeats=2, margin=0.03, score=0.025, chance=0.0),
    Weak(name="400 questions", n=400, repeats=1, margin=0.05, score=0.3, chance=0.25),
    Weak(name="GPQA", n=1192, repeats=2, margin=0.05, score=0.29, chance=0.25),
    Weak(name="GPQA-diamond", n=198, repeats=8, margin=0.05, score=0.7, chance=0.25),
    Weak(name="silent-baseline", n=400, repeats=1, margin=0.05, score=0.0, chance=0.0),
)


def sensitive(weak: Weak, runs: int, seed: int) -> dict[str, int]:
    """How many baselines are judged sensitive, without which no candidate passes; as `passed`."""
    random, passed = np.random.default_rng([seed, weak.n, int(1e4 * weak.score)]), 0
    for _ in range(runs):
        p = random.beta(0.25, 0.25 * (1 / weak.score - 1), weak.n) if weak.score else np.zeros(weak.n)
        answers = weak.n * weak.repeats
        score = int(random.binomial(weak.repeats, p).sum()) / answers
        passed += above_chance(score, answers, weak.chance)[0] > SENSITIVE * weak.margin
    return {"runs": runs, "passed": passed, "failed": 0, "answers": 0}


class Side(dict[Answer, float]):
    """The scores of one side, drawn when they are asked for; `given` has the text of each answer."""

    def __init__(self, answer: Callable[[int], tuple[float, str]]) -> None:
        """`answer` draws the score and the text of an answer to the question of this number."""
        super().__init__()
        self._answer = answer
        self.given: dict[Answer, str] = {}

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: Answer) -> float:
        self[key], self.given[key] = self._answer(int(key[1][1:]))
        return self[key]

    def ask(self, n: int, repeats: int) -> None:
        """Draw the first `repeats` answers to each of `n` questions, unless they are there."""
        for repeat in range(repeats):
            for row in range(n):
                self["", f"q{row}", repeat]

    def samples(self, repeats: int = 1_000_000) -> list[Sample]:
        return [
            Sample(
                benchmark="b",
                subset=subset,
                question_id=name,
                prompt_sha256="0" * 64,
                repeat=repeat,
                correct=score,
                answer=self.given[subset, name, repeat] or None,
                finish_reason="stop",
                completion_tokens=1,
                latency_s=None,
                error=None,
            )
            for (subset, name, repeat), score in self.items()
            if repeat < repeats
        ]


def without_skill(weak: Weak, who: str, runs: int, seed: int, part: int) -> list[dict[str, int]]:
    """PASS and FAIL of a candidate without the skill, in a release and by `compare`; one row for each."""
    random = np.random.default_rng([seed, weak.n, int(1e4 * weak.score), WITHOUT_SKILL.index(who), part])
    ends: list[list[Verdict]] = [[], []]
    for _ in range(runs):
        before, after = _sides(weak, who, random)
        ends[0].append(in_release(weak, before, after))
        before.ask(weak.n, weak.repeats)
        after.ask(weak.n, weak.repeats)
        both = before.samples(weak.repeats), after.samples(weak.repeats)
        ends[1].append(compare(*both, margins={"b": weak.margin}, chances={"b": weak.chance}).verdict)
    return [
        {"runs": runs, "passed": each.count(Verdict.PASS), "failed": each.count(Verdict.FAIL), "answers": 0}
        for each in ends
    ]


def _sides(weak: Weak, who: str, random: Random) -> tuple[Side, Side]:
    right = random.choice(list("ABCD"), weak.n).tolist()
    p = random.beta(0.25, 0.25 * (1 / weak.score - 1), weak.n) if weak.score else np.zeros(weak.n)

    def text(row: int, said: str) -> tuple[float, str]:
        return float(said == right[row]), said

    def wrong(row: int) -> str:
        return "B" if right[row] == "A" else "A"

    def baseline(row: int) -> tuple[float, str]:
        if not weak.score:
            return 0.0, ""
        return text(row, right[row] if random.random() < p[row] else wrong(row))

    says: dict[str, Callable[[int], str]] = {
        "dead": wrong,
        "silent": lambda _row: "",
        "always A": lambda _row: "A",
        "always refuses": lambda _row: "I cannot",
        "guesses": lambda _row: str(random.choice(list("ABCD"))),
    }
    return Side(baseline), Side(lambda row: text(row, says[who](row)))


def in_release(weak: Weak, before: Side, after: Side) -> Verdict:
    """The verdict of a release's first attempt, which asks for as many answers as its design needs."""
    planned = _planned(weak.n, weak.repeats, weak.margin, weak.chance)
    if planned.reference:
        before.ask(weak.n, weak.repeats)
    decision = planned.evaluation.next(before, after)
    assert isinstance(decision, Decision)
    if unsettled(planned, decision, before.samples(), after.samples()):
        before.ask(weak.n, 1)
    return Verdict(to_verdict(planned, "b", decision, before.samples(), after.samples()).verdict)


def _planned(n: int, repeats: int, margin: float, chance: float) -> PlannedLooks:
    return PlannedLooks(
        questions=tuple(("", f"q{row}") for row in range(n)),
        margin=margin,
        repeats=repeats,
        looks=interim_analyses(margin, repeats),
        fail_alpha=FAIL_ALPHA,
        reference=repeats > 1,
        chance=chance,
        alpha=level(1),
        reserve=RESERVE,
        population=n,
        baseline_weight=BASELINE_WEIGHT if repeats > 1 else 0.0,
    )


FAILED = 0.0099
"""The share of failed answers that an evaluation tolerates."""


def with_failures(
    setting: Setting, loss: float, who: str, which: str, runs: int, seed: int, part: int
) -> dict[str, int]:
    """Verdicts if 0.99 % of one side's answers fail: any of them, or only right ones (`easy`)."""
    random = np.random.default_rng([seed, setting.n, who == "baseline", which == "easy", part])
    planned = _planned(setting.n, setting.repeats, setting.margin, 0.0)
    ends, answers = [], 0
    for p, q in zip(*setting.sides(loss, "logit", random, runs), strict=True):
        before, after = (
            Side(_failing(chances, which, random) if name == who else _failing(chances, "none", random))
            for name, chances in (("baseline", p), ("candidate", q))
        )
        if planned.reference:
            before.ask(setting.n, setting.repeats)
        decision = planned.evaluation.next(before, after)
        assert isinstance(decision, Decision)
        ends.append(decision.ruling.verdict)
        answers += decision.pairs
    return {
        "runs": runs,
        "passed": ends.count(Verdict.PASS),
        "failed": ends.count(Verdict.FAIL),
        "answers": answers,
    }


def _failing(p: Floats, which: str, random: Random) -> Callable[[int], tuple[float, str]]:
    share = {"easy": FAILED / float(p.mean()), "any": FAILED, "none": 0.0}[which]

    def answer(row: int) -> tuple[float, str]:
        right = float(random.random() < p[row])
        fails = random.random() < share and (right or which == "any")
        return (nan if fails else right), ""

    return answer
