"""Simulate error rates and power of the verdict, with data generators that share no code with the product.

    python benchmarks/verdict_audit.py [TABLE …] [--runs N] [--jobs N] [--seed N] [--only NAME] [--out FILE]

TABLE is one of
    margin     false PASS at a loss of exactly the margin, in a first attempt of a release
    single     the same for one judgement at 5 %
    identical  the same stack on both sides: PASS, false FAIL and answers
    equal      the same for the benchmarks of the profile `full`, and for all five at once
    worse      all five at once, one of them at a loss of the margin or of twice the margin
    kept       false PASS given one kept baseline
    failed     with failed answers on one side
    skill      candidates without the skill
    floor      baselines without much skill that are judged sensitive, so that a candidate can pass
    costs      the candidate's answers, by design
    designs    ways to go on with an open verdict, by exact integration
By default all of them. FILE receives every rate as a line of JSON, with its counts and its seed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from audit_samples import WEAK, WITHOUT_SKILL, sensitive, with_failures, without_skill
from simulated import (
    AIME,
    AUDITED,
    FULL,
    GPQA_D,
    HOW,
    IFEVAL,
    LIVEBENCH,
    MMLU,
    MUSR,
    Floats,
    Many,
    Setting,
    simulate,
)
from tables import Order, Tally, head, print_tables

from flagrelease.verdict.stats.design import Design
from flagrelease.verdict.stats.planner import GUESS, outlook
from flagrelease.verdict.stats.sequential import FAIL, PASS
from flagrelease.verdict.types import ALPHA, FAIL_ALPHA


def ends(setting: Setting, loss: float, how: str, runs: int, seed: int, part: int) -> dict[str, float]:
    """The ends of a batch of evaluations."""
    found = simulate(setting, loss, how, runs=runs, seed=seed, part=part)
    return {
        "runs": runs,
        "passed": int((found.verdict == PASS).sum()),
        "failed": int((found.verdict == FAIL).sum()),
        "answers": float(found.answers.sum()),
    }


def tallies(order: Order, table: str, cases: Sequence[tuple[Setting, float, str]]) -> list[Tally]:
    """The tally of each case: a setting, its loss and how it is lost."""
    tasks = [(*case, runs, order.seed, part) for case in cases for part, runs in order.parts()]
    counts, found = order.spread(ends, tasks), []
    for setting, loss, how in cases:
        tally = Tally.of(next(counts) for _ in order.parts())
        found.append(tally)
        where = {"setting": label(setting), "kind": setting.kind, "loss": loss, "how": how}
        where |= {"level": setting.level, "weight": setting.weight, **dict(setting.further)}
        order.keep(table=table, **where, seed=order.seed, **vars(tally))
    return found


def label(setting: Setting) -> str:
    more = [f", {100 * setting.rho:.0f} % of draws shared"] if setting.rho else []
    more += [", both asked"] if setting.served else []
    return f"{setting.name} {setting.n}×{setting.repeats}{''.join(more)}"


def _at_margin(order: Order, table: str, settings: list[Setting]) -> list[str]:
    found = iter(tallies(order, table, [(setting, setting.margin, how) for setting in settings for how in HOW]))
    rows = [
        f"| {label(setting)} | {setting.kind} | {' | '.join(next(found).rate() for _ in HOW)} |" for setting in settings
    ]
    return [*head("setting", "difficulty", *HOW), *rows]


def at_margin(order: Order) -> list[str]:
    """False PASS at a loss of exactly the margin, in a first attempt of a release."""
    return _at_margin(order, "margin", [setting.in_release for setting in order.settings(AUDITED)])


def single(order: Order) -> list[str]:
    """The same for one judgement at 5 %, with the baseline's error in the sum of squares."""
    return _at_margin(order, "single", order.settings(AUDITED))


def identical(order: Order) -> list[str]:
    """The same stack on both sides, in all settings of the audit."""
    settings = [setting.in_release for setting in order.settings(AUDITED)]
    found = tallies(order, "identical", [(setting, 0.0, "logit") for setting in settings])
    rows = [
        f"| {label(setting)} | {setting.kind} | {tally.rate()} | {tally.rate('failed')} "
        f"| {tally.answers / tally.runs:,.0f} | {setting.n * setting.repeats:,} |"
        for setting, tally in zip(settings, found, strict=True)
    ]
    return [*head("setting", "difficulty", "PASS", "false FAIL", "answers", "of at most"), *rows]


def verdicts(setting: Setting, loss: float, how: str, runs: int, seed: int, part: int) -> tuple[Floats, Floats]:
    found = simulate(setting, loss, how, runs=runs, seed=seed, part=part)
    return found.verdict, found.answers


def _full(order: Order, margins: float) -> tuple[Floats, Floats]:
    """The verdicts and answers of the benchmarks of `full` at a loss, (benchmarks, cells)."""
    tasks = [
        (each, margins * each.margin, "logit", runs, order.seed, part) for each in FULL for part, runs in order.parts()
    ]
    found = list(order.spread(verdicts, tasks))
    return tuple(np.concatenate([each[of] for each in found]).reshape(len(FULL), -1) for of in (0, 1))  # type: ignore[return-value]


def equal(order: Order) -> list[str]:
    """Identical stacks, profile `full`: each benchmark, and the cell with all of them."""
    found, answers = _full(order, 0.0)
    rows = []
    for setting, verdict, asked in zip(FULL, found, answers, strict=True):
        passed, failed = int((verdict == PASS).sum()), int((verdict == FAIL).sum())
        tally = Tally(runs=order.runs, passed=passed, failed=failed, answers=float(asked.sum()))
        order.keep(table="equal", setting=label(setting), seed=order.seed, **vars(tally))
        rows.append(
            f"| {label(setting)} | {tally.rate()} | {tally.rate('failed')} "
            f"| {asked.mean():,.0f} | {setting.n * setting.repeats:,} |"
        )
    cell = _cell(found, answers)
    order.keep(table="equal", setting="the cell", seed=order.seed, **vars(cell))
    rows.append(f"| the cell | {cell.rate()} | {cell.rate('failed')} | {cell.answers / cell.runs:,.0f} | |")
    return [*head("benchmark", "PASS", "false FAIL", "answers", "of at most"), *rows]


def _cell(found: Floats, answers: Floats) -> Tally:
    return Tally(
        runs=found.shape[1],
        passed=int((found == PASS).all(axis=0).sum()),
        failed=int((found == FAIL).any(axis=0).sum()),
        answers=float(answers.sum()),
    )


def worse(order: Order) -> list[str]:
    """The cell of `full` if one of its benchmarks loses the margin, or twice the margin, and the others nothing."""
    (same, answers), *losing = (_full(order, margins) for margins in (0.0, 1.0, 2.0))
    rows = []
    for number, setting in enumerate(FULL):
        rates = []
        for margins, (verdict, asked) in zip((1.0, 2.0), losing, strict=True):
            cell, cost = same.copy(), answers.copy()
            cell[number], cost[number] = verdict[number], asked[number]
            tally = _cell(cell, cost)
            order.keep(table="worse", setting=label(setting), margins=margins, seed=order.seed, **vars(tally))
            rates += [tally.rate(), tally.rate("failed")]
        rows.append(f"| {label(setting)} | {' | '.join(rates)} |")
    names = ("PASS at the margin", "FAIL", "PASS at twice the margin", "FAIL")
    return [*head("benchmark that loses", *names), *rows]


CANDIDATES = 200
"""That are judged against each kept baseline."""


def against(setting: Setting, baselines: int, seed: int, part: int) -> list[int]:
    """For each of some kept baselines, how many candidates pass at a loss of the margin."""
    random = np.random.default_rng([seed, setting.n, setting.repeats, part])
    p, q = setting.sides(setting.margin, "logit", random, baselines)
    right = random.binomial(setting.repeats, p).astype(float)
    rows = np.repeat(np.arange(baselines), CANDIDATES)
    found = Many(setting, p[rows], q[rows], random, right=right[rows]).run().verdict == PASS
    return [int(count) for count in found.reshape(baselines, CANDIDATES).sum(axis=1)]


def kept(order: Order) -> list[str]:
    """False PASS at the margin given one kept baseline: how it differs between baselines."""
    rows = []
    settings = (AIME, replace(AIME, kind="strong"), GPQA_D, MUSR, replace(AIME, repeats=128), replace(MUSR, repeats=16))
    for setting in order.settings(settings):
        for rule, judged in (("5 %, sum of squares", setting), ("first attempt", setting.in_release)):
            parts = range(-(-order.runs // 5))
            tasks = [(judged, min(5, order.runs - 5 * part), order.seed, part) for part in parts]
            passed = np.concatenate([np.array(each) for each in order.spread(against, tasks)]) / CANDIDATES
            order.keep(
                table="kept",
                setting=label(setting),
                kind=setting.kind,
                rule=rule,
                seed=order.seed,
                candidates=CANDIDATES,
                passed=passed.tolist(),
            )
            cells = [f"{100 * passed.mean():.1f}", f"{100 * np.quantile(passed, 0.9):.1f}", f"{100 * passed.max():.1f}"]
            rows.append(f"| {label(setting)} | {setting.kind} | {rule} | {' | '.join(cells)} | {len(passed)} |")
            print(rows[-1], file=sys.stderr, flush=True)
    return [*head("benchmark", "difficulty", "rule", "mean", "nine of ten below", "worst", "baselines"), *rows]


def failed(order: Order) -> list[str]:
    """0.99 % failed answers: of the baseline at a loss of the margin, of the candidate if the stacks are identical."""
    cases = [
        (setting, loss * setting.margin, who, which)
        for setting in order.settings((replace(MMLU, kind="ushape"), LIVEBENCH, IFEVAL))
        for loss, who in ((1.0, "baseline"), (0.0, "candidate"))
        for which in ("easy", "any")
    ]
    small = replace(order, runs=max(order.runs // 5, 1))
    parts = [(part, runs) for part, runs in enumerate([10] * (small.runs // 10) or [small.runs])]
    tasks = [(*case, runs, order.seed, part) for case in cases for part, runs in parts]
    counts = order.spread(with_failures, tasks)
    rows = []
    for setting, loss, who, which in cases:
        tally = Tally.of(next(counts) for _ in parts)
        order.keep(
            table="failed", setting=label(setting), loss=loss, who=who, which=which, seed=order.seed, **vars(tally)
        )
        wrong = tally.rate("failed" if who == "candidate" else "passed")
        rows.append(
            f"| {label(setting)} | {who} | {which} | {'identical' if not loss else 'at the margin'} "
            f"| {wrong} | {tally.runs} |"
        )
    return [*head("setting", "failed answers of the", "which", "candidate", "wrong verdict", "runs"), *rows]


def skill(order: Order) -> list[str]:
    """PASS of candidates without the skill, by the sequential design and by `compare`."""
    cases = [
        (weak, who)
        for weak in WEAK
        for who in WITHOUT_SKILL
        if order.only in f"{weak.name} {who}" and (weak.chance or who != "guesses")
    ]
    parts = [(part, 20) for part in range(order.runs // 20)] or [(0, order.runs)]
    counts = order.spread(without_skill, [(*case, runs, order.seed, part) for case in cases for part, runs in parts])
    rows = []
    for weak, who in cases:
        both = [next(counts) for _ in parts]
        cells = []
        for design, found in zip(("sequential", "compare"), zip(*both, strict=True), strict=True):
            tally = Tally.of(found)
            order.keep(
                table="skill",
                setting=weak.name,
                score=weak.score,
                chance=weak.chance,
                who=who,
                design=design,
                seed=order.seed,
                **vars(tally),
            )
            cells += [f"{tally.passed} of {tally.runs}", f"{tally.failed}"]
        title = f"{weak.name} {weak.n}×{weak.repeats}"
        rows.append(f"| {who} | {title} | {weak.score} | {weak.chance} | {' | '.join(cells)} |")
    names = ("PASS", "FAIL", "PASS by `compare`", "FAIL by `compare`")
    return [*head("candidate", "benchmark", "baseline", "chance", *names), *rows]


def floor(order: Order) -> list[str]:
    """Baselines that are judged sensitive: an upper bound of PASS for every candidate."""
    cases = [weak for weak in WEAK if order.only in weak.name]
    rows = []
    for weak, counts in zip(
        cases, order.spread(sensitive, [(weak, order.runs, order.seed) for weak in cases]), strict=True
    ):
        tally = Tally.of([counts])
        order.keep(
            table="floor", setting=weak.name, score=weak.score, chance=weak.chance, seed=order.seed, **vars(tally)
        )
        rows.append(
            f"| {weak.name} | {weak.score} | {weak.chance} | {weak.margin} | {tally.passed} of {tally.runs:,} |"
        )
    return [*head("benchmark", "baseline", "chance", "margin", "sensitive"), *rows]


BEFORE = tuple(
    replace(setting, repeats=repeats, level=ALPHA, weight=0.0, guarded=False, further=(("reserve", 0.0), ("looks", 10)))
    for setting, repeats in zip(FULL, (16, 2, 2, 2, 1), strict=True)
)
"""Profile `full` by the design of commit ebb556b, which ends at its planned information."""


def costs(order: Order) -> list[str]:
    """Identical stacks, profile `full`: PASS and the candidate's answers by design."""
    cases: list[tuple[str, Setting]] = []
    for before, now in zip(BEFORE, FULL, strict=True):
        for title, setting in (("ebb556b", before), ("ebb556b, our baseline", replace(before, repeats=now.repeats))):
            cases += [(title, with_design(setting, power=power)) for power in (0.9, 0.99)]
        ways: list[dict[str, float]] = [{"looks": looks} for looks in (10, 20, 40)]
        ways += [{"exponent": 0.5}, {"exponent": 3.0}, {"power": 0.8}]
        cases += [("ours", now), *(("ours", with_design(now, **way)) for way in ways)]
    cases = [(name, setting) for name, setting in cases if order.only in setting.name]
    found = tallies(order, "costs", [(setting, 0.0, "logit") for _, setting in cases])
    rows = []
    for (name, setting), tally in zip(cases, found, strict=True):
        way = "".join(f", {key} {value}" for key, value in setting.further if key != "reserve")
        rows.append(f"| {label(setting)} | {name}{way} | {tally.rate()} | {tally.answers / tally.runs:,.0f} |")
    return [*head("benchmark", "design", "PASS", "answers"), *rows]


def with_design(setting: Setting, **parameters: float) -> Setting:
    return replace(setting, further=(*setting.further, *parameters.items()))


def designs(_order: Order) -> list[str]:
    """By exact integration: ways to go on, with a budget of 2.4 times the fixed design of power 0.90, FAIL at 1 %."""
    plain: dict[str, Any] = {"questions": 100, "margin": 0.05, "repeats": 20, "fail_alpha": FAIL_ALPHA}
    ways = {
        "planned for power 0.90, ends there": Design(**plain),
        "planned for power 0.985": Design(**plain, power=0.985, looks=20),
        "planned for power 0.985, spent as t^0.5": Design(**plain, power=0.985, looks=20, exponent=0.5),
        "planned for power 0.90, a tenth of α in reserve": Design(**plain, reserve=0.1),
        "planned for power 0.90, a fifth of α in reserve": Design(**plain, reserve=0.2),
        "planned for power 0.90, two fifths of α in reserve": Design(**plain, reserve=0.4),
    }
    fixed = GUESS * ((1.6448536 + 1.2815516) / 0.05) ** 2
    head = ("design", "no loss", "half of the margin", "the margin", "twice the margin")
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, design in ways.items():
        ends = [outlook(design, loss) for loss in (0.0, 0.025, 0.05, 0.1)]
        cells = [f"{end.passes:.3f} / {end.fails:.3f} / {end.pairs / fixed:.2f}" for end in ends]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


TABLES = {
    "margin": at_margin,
    "single": single,
    "identical": identical,
    "equal": equal,
    "worse": worse,
    "kept": kept,
    "failed": failed,
    "skill": skill,
    "floor": floor,
    "costs": costs,
    "designs": designs,
}


if __name__ == "__main__":
    print_tables(__doc__, TABLES, runs=1000)
