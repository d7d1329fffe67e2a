"""One rule decides: every way to a verdict goes through it, and nothing else in the package decides."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr, stdtrit

from flagrelease.config.matrix import Profile, Share
from flagrelease.verdict import fixed_sample, group_sequential, rule, speed
from flagrelease.verdict.compare import compare_main
from flagrelease.verdict.group_sequential import PlannedLooks
from flagrelease.verdict.samples import Conditions, Sample, write_samples
from flagrelease.verdict.stats.design import Design
from flagrelease.verdict.stats.sequential import FAIL, PASS, Estimate
from flagrelease.verdict.stats.token_distance import TokenDistance
from flagrelease.verdict.types import Ask, BenchmarkEvidence, BenchmarkVerdict, Decision, Ground, Note, Ruling, Verdict
from support.answer_sets import answers, drawn
from support.evaluated import answering, world_of

PACKAGE = Path(__file__).parents[3] / "pipeline" / "flagrelease"
ROOM = PACKAGE / "verdict"


def evidence(
    low: float,
    high: float,
    *,
    significant: bool = False,
    above: tuple[float, float] | None = (0.3, 0.4),
    silent: tuple[str, ...] = (),
) -> BenchmarkEvidence:
    return BenchmarkEvidence(
        interval=(low, high),
        margin=0.05,
        p_regression=0.01 if significant else 0.4,
        significant=significant,
        above_chance=above,
        silent=silent,
    )


BARELY, NEARLY, NOT = (0.101, 0.2), (0.1, 0.2), (0.02, 0.1)


@pytest.mark.parametrize(
    ("known", "verdict", "ground", "notes"),
    [
        (evidence(-0.04, 0.04), Verdict.PASS, Ground.EQUIVALENT, ()),
        (evidence(-0.04, 0.06), Verdict.PASS, Ground.NON_INFERIOR, ()),
        (evidence(0.01, 0.06), Verdict.PASS, Ground.NON_INFERIOR, (Note.LARGE_GAIN,)),
        (evidence(-0.04, -0.01, significant=True), Verdict.PASS, Ground.EQUIVALENT, (Note.LOSS_INSIDE_MARGIN,)),
        (evidence(-0.05, 0.04), Verdict.INCONCLUSIVE, Ground.UNDECIDED, ()),
        (evidence(-0.09, -0.01), Verdict.INCONCLUSIVE, Ground.UNDECIDED, ()),
        (evidence(-0.09, 0.01, significant=True), Verdict.INCONCLUSIVE, Ground.UNDECIDED, ()),
        (evidence(-0.09, -0.01, significant=True), Verdict.FAIL, Ground.SIGNIFICANT_LOSS, ()),
        (evidence(-0.09, -0.06), Verdict.FAIL, Ground.LOSS_BEYOND_MARGIN, ()),
        (evidence(-0.04, 0.04, above=None), Verdict.PASS, Ground.EQUIVALENT, ()),
        (evidence(-0.04, 0.04, above=BARELY), Verdict.PASS, Ground.EQUIVALENT, ()),
        (evidence(-0.04, 0.04, above=NEARLY), Verdict.INCONCLUSIVE, Ground.SENSITIVITY_UNDECIDED, ()),
        (evidence(-0.04, 0.04, above=NOT), Verdict.INCONCLUSIVE, Ground.NOT_SENSITIVE, ()),
        (evidence(-0.09, 0.04, above=NOT), Verdict.INCONCLUSIVE, Ground.UNDECIDED, ()),
        (evidence(-0.09, -0.06, above=NOT), Verdict.FAIL, Ground.LOSS_BEYOND_MARGIN, ()),
        (evidence(-0.09, -0.01, significant=True, above=NOT), Verdict.FAIL, Ground.SIGNIFICANT_LOSS, ()),
        (evidence(-0.04, 0.04, silent=("candidate",)), Verdict.INCONCLUSIVE, Ground.SILENT, ()),
        (evidence(-0.09, -0.06, silent=("candidate",)), Verdict.FAIL, Ground.LOSS_BEYOND_MARGIN, ()),
    ],
)
def test_the_rule(known: BenchmarkEvidence, verdict: Verdict, ground: Ground, notes: tuple[Note, ...]) -> None:
    sensitive = known.above_chance not in (NEARLY, NOT)
    assert rule.decide(known) == Ruling(verdict=verdict, ground=ground, notes=notes, sensitive=sensitive)


def test_fail_has_a_level_of_its_own() -> None:
    """The interval is the 90 % one; of several benchmarks, each fails at a smaller level."""
    shown = evidence(-0.09, -0.01, significant=True)
    assert rule.decide(replace(shown, ceiling=0.01)).verdict is Verdict.INCONCLUSIVE
    assert rule.decide(replace(evidence(-0.09, -0.06), ceiling=-0.04)).verdict is Verdict.INCONCLUSIVE
    assert rule.decide(replace(evidence(-0.09, 0.01, significant=True), ceiling=-0.01)).verdict is Verdict.FAIL


@dataclass(frozen=True, kw_only=True)
class Given:
    verdict: Verdict
    sensitive: bool
    benchmark: str = "b"
    reason: str = ""


@pytest.mark.parametrize(
    ("sensitive", "insensitive", "cell"),
    [
        ("PASS", "INCONCLUSIVE", Verdict.PASS),
        ("PASS", "FAIL", Verdict.FAIL),
        ("INCONCLUSIVE", "INCONCLUSIVE", Verdict.INCONCLUSIVE),
        ("FAIL", "INCONCLUSIVE", Verdict.FAIL),
        ("", "INCONCLUSIVE", Verdict.INCONCLUSIVE),
        ("", "FAIL", Verdict.FAIL),
        ("", "", Verdict.INCONCLUSIVE),
    ],
)
def test_a_cell_is_judged_by_its_sensitive_benchmarks(sensitive: str, insensitive: str, cell: Verdict) -> None:
    judged = [
        Given(verdict=Verdict(each), sensitive=kind) for each, kind in ((sensitive, True), (insensitive, False)) if each
    ]
    assert rule.decide_cell(judged) is cell


@pytest.mark.parametrize(
    ("benchmarks", "tokens", "cell"),
    [
        (("INCONCLUSIVE",), Verdict.PASS, Verdict.PASS),
        (("FAIL",), Verdict.PASS, Verdict.FAIL),
        ((), Verdict.FAIL, Verdict.FAIL),
        (("INCONCLUSIVE",), Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE),
        ((), None, Verdict.INCONCLUSIVE),
    ],
)
def test_the_token_gate_counts_where_no_benchmark_is_sensitive(
    benchmarks: tuple[str, ...], tokens: Verdict | None, cell: Verdict
) -> None:
    assert rule.decide_cell([Given(verdict=Verdict(each), sensitive=False) for each in benchmarks], tokens) is cell


@pytest.mark.parametrize("sensitive", list(Verdict))
def test_the_token_gate_overrides_a_sensitive_benchmark_only_by_failing(sensitive: Verdict) -> None:
    judged = [Given(verdict=sensitive, sensitive=True)]
    assert rule.decide_cell(judged, Verdict.PASS) is sensitive
    assert rule.decide_cell(judged, Verdict.INCONCLUSIVE) is sensitive
    assert rule.decide_cell(judged, Verdict.FAIL) is Verdict.FAIL


def distance(low: float, high: float, tokens: int = 10_000) -> TokenDistance:
    return TokenDistance(prompts=300, tokens=tokens, mean=(low + high) / 2, interval=(low, high), same_top=1.0)


@pytest.mark.parametrize(
    ("candidate", "floor", "others", "verdict"),
    [
        (distance(0.011, 0.5), distance(0, 0.0036), 0, Verdict.FAIL),
        (distance(0.011, 0.5, 300), distance(0, 0.0036), 0, Verdict.FAIL),
        (distance(0.0099, 0.5), distance(0, 0.0001), 0, Verdict.INCONCLUSIVE),
        (distance(0.011, 0.5), distance(0, 0.0037), 0, Verdict.INCONCLUSIVE),
        (distance(0, 0.0099), distance(0, 0.0036), 0, Verdict.PASS),
        (distance(0, 0.0099, 9_999), distance(0, 0.0036), 0, Verdict.INCONCLUSIVE),
        (distance(0, 0.0101), distance(0, 0.1), 0, Verdict.INCONCLUSIVE),
        (distance(0, 0.0099), distance(0, 0.0036), 1, Verdict.INCONCLUSIVE),
    ],
)
def test_the_token_gate_needs_tolerance_floor_and_tokens(
    candidate: TokenDistance, floor: TokenDistance, others: int, verdict: Verdict
) -> None:
    assert rule.decide_tokens(candidate, floor, other_prompts=others) is verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.8, 0.9, Verdict.PASS), (0.7, 0.8, Verdict.INCONCLUSIVE), (0.7, 0.79, Verdict.FAIL)],
)
def test_the_rule_of_speed(low: float, high: float, verdict: Verdict) -> None:
    assert rule.decide_speed((low, high), 0.8) is verdict


def test_a_look_decides_as_its_boundaries_do() -> None:
    """The repeated interval excludes a value where the z-statistic passes the limit, and only there."""
    random = np.random.default_rng(1)
    design = Design(questions=198, margin=0.05, repeats=20)
    lanes = 500
    error = random.uniform(0.01, 0.04, lanes)
    found = Estimate(random.normal(-0.02, 0.05, lanes), error, 60)
    monitor, look = design.monitor(lanes).look(found, np.zeros(lanes, np.bool_))
    time = 1 / (error**2 * design.information)
    limit = design.monitor(lanes).passing.limit(time, 0.05 * np.minimum(time, 1.0))
    t = -stdtrit(60, ndtr(-limit))
    passes = (found.difference + design.margin) / error > t
    fails = ~passes & (-found.difference / error > t)
    assert (look.decision == np.where(passes, PASS, np.where(fails, FAIL, 0))).all()
    assert {PASS, FAIL, 0} == set(look.decision.tolist())
    again = monitor.look(found, np.zeros(lanes, np.bool_))[1]
    assert not again.decision[np.abs(found.difference) < 0.05].any(), "no more information decides nothing"


# A changed rule changes every path. Two equal sides pass; with the rule below they fail.


def strict(_evidence: BenchmarkEvidence) -> Ruling:
    return Ruling(verdict=Verdict.FAIL, ground=Ground.LOSS_BEYOND_MARGIN)


def sides() -> tuple[list[Sample], list[Sample]]:
    p = np.random.default_rng(1).beta(0.8, 0.5, 198)
    return answers(drawn(1, p, 20)), answers(drawn(2, p, 20))


def design(**changes: Any) -> PlannedLooks:
    first = {(one.subset, one.question_id): None for one in sides()[0]}
    given = {"margin": 0.05, "repeats": 20, "fail_alpha": 0.05, "reference": True, "chance": 0.0, **changes}
    return PlannedLooks(questions=tuple(first), **given)


def fixed(chance: float = 0.0) -> BenchmarkVerdict:
    found = fixed_sample.compare(*sides(), margins={"mmlu": 0.05}, chances={"mmlu": chance})
    return found.benchmarks["mmlu"]


def asked() -> Decision:
    """By the group-sequential design, look by look."""
    baseline, candidate = map(group_sequential.scores, sides())
    step = design().evaluation.next(baseline, candidate)
    assert not isinstance(step, Ask)
    return step


def judged(margin: float | None = None) -> BenchmarkVerdict:
    return group_sequential.judge(design(), "mmlu", *sides(), margin=margin)


def failing(samples: list[Sample], every: int) -> list[Sample]:
    """The same answers, but some of the requests failed."""
    return [
        replace(each, correct=False, answer=None, error="HTTP 500") if number % every == 0 else each
        for number, each in enumerate(samples)
    ]


@pytest.mark.parametrize("sequential", [False, True])
def test_failed_answers_help_neither_verdict(sequential: bool) -> None:
    """A failed answer of the baseline may have been right, one of the candidate may have been right or wrong."""

    def verdict(baseline: list[Sample], candidate: list[Sample]) -> BenchmarkVerdict:
        if sequential:
            return group_sequential.judge(design(), "mmlu", baseline, candidate)
        return fixed_sample.compare(baseline, candidate, margins={"mmlu": 0.05}).benchmarks["mmlu"]

    before, after = sides()
    p = np.random.default_rng(1).beta(0.8, 0.5, 198)
    worse = answers(drawn(3, np.clip(p - 0.12, 0, 1), 20))
    assert verdict(before, after).verdict is Verdict.PASS
    assert verdict(before, worse).verdict is Verdict.FAIL
    damaged = verdict(failing(before, 5), worse)
    assert damaged.difference > -0.05
    assert damaged.verdict is Verdict.INCONCLUSIVE
    assert verdict(before, failing(after, 5)).verdict is Verdict.INCONCLUSIVE
    few = verdict(failing(before, 400), failing(after, 400))
    assert few.verdict is Verdict.PASS
    if not sequential:
        low, high = verdict(before, after).interval90
        assert few.interval90[0] < low < high < few.interval90[1]


def settled_again() -> BenchmarkVerdict:
    """A decision of before, judged again with the answers that are kept."""
    return group_sequential.to_verdict(design(), "mmlu", DECIDED, *sides())


DECIDED = asked()


@pytest.mark.parametrize(
    "path",
    [fixed, asked, judged, lambda: judged(0.2), settled_again],
    ids=["fixed sample", "group-sequential", "recorded design", "another margin", "reuse"],
)
def test_every_path_asks_the_rule(
    path: Callable[[], BenchmarkVerdict | Decision], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert path().verdict is Verdict.PASS
    monkeypatch.setattr(rule, "decide", strict)
    assert path().verdict is Verdict.FAIL


def test_a_stricter_rule_stops_an_evaluation_at_its_first_look(monkeypatch: pytest.MonkeyPatch) -> None:
    undecided = design(margin=0.01).evaluation
    baseline, candidate = map(group_sequential.scores, sides())
    first = undecided.next(baseline, {})
    assert isinstance(first, Ask)
    answered = {one: candidate[one] for one in first.candidate}
    assert isinstance(undecided.next(baseline, answered), Ask)
    monkeypatch.setattr(rule, "decide", strict)
    ended = undecided.next(baseline, answered)
    assert isinstance(ended, Decision)
    assert (ended.verdict, ended.looks) == (Verdict.FAIL, 1)


def at_chance(right: int, asked: int, chance: float = 0.25) -> tuple[PlannedLooks, list[Sample]]:
    """A design with 400 questions, and the answers to the first of them."""
    every = answers([[n < right] for n in range(400)])
    questions = tuple((each.subset, each.question_id) for each in every)
    planned = PlannedLooks(questions=questions, margin=0.05, repeats=1, fail_alpha=0.05, reference=False, chance=chance)
    return planned, every[:asked]


def test_the_rule_says_whether_a_baseline_near_chance_is_asked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    planned, same = at_chance(40, 100)
    decision = replace(DECIDED, evidence=evidence(-0.04, 0.04, above=None))
    assert group_sequential.unsettled(planned, decision, same, same) == tuple((*each, 0) for each in planned.questions)
    complete = replace(planned, reference=True)
    assert group_sequential.unsettled(complete, decision, same, same) == (), "a complete baseline is never asked"
    for right in (20, 80):  # certainly not sensitive, certainly sensitive
        planned, same = at_chance(right, 100)
        assert group_sequential.unsettled(planned, decision, same, same) == ()
    monkeypatch.setattr(rule, "decide", strict)
    planned, same = at_chance(40, 100)
    assert group_sequential.unsettled(planned, decision, same, same) == ()


@pytest.mark.parametrize(("right", "sensitive"), [(170, True), (100, False)])
def test_both_designs_know_the_chance_level(right: int, sensitive: bool) -> None:
    """The same answers on both sides pass only where the baseline is well above it."""
    planned, same = at_chance(right, 400)
    sequential = group_sequential.judge(planned, "mmlu", same, same)
    margins, chances = {"mmlu": 0.05}, {"mmlu": 0.25}
    fixed = fixed_sample.compare(same, same, margins=margins, chances=chances).benchmarks["mmlu"]
    for found in (sequential, fixed):
        assert found.sensitive is sensitive
        assert found.verdict is (Verdict.PASS if sensitive else Verdict.INCONCLUSIVE)
        assert ("not sensitive" in found.reason) is not sensitive
    assert group_sequential.judge(replace(planned, chance=0.0), "mmlu", same, same).verdict is Verdict.PASS


@pytest.mark.parametrize("sequential", [False, True])
def test_flagrelease_compare_asks_the_rule(sequential: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = {"mmlu": design().record()} if sequential else {}
    conditions = Conditions(model="m", data={}, sampling={}, design=recorded)
    for name, samples in zip("ab", sides(), strict=True):
        (tmp_path / name).mkdir()
        write_samples(tmp_path / name / "samples.jsonl", samples)
        (tmp_path / name / "conditions.json").write_text(conditions.dump())
    assert compare_main(tmp_path / "a", tmp_path / "b", {"mmlu": 0.05}, False)[1] == 0
    monkeypatch.setattr(rule, "decide", strict)
    assert compare_main(tmp_path / "a", tmp_path / "b", {"mmlu": 0.05}, False)[1] == 4


@pytest.mark.parametrize("sequential", [False, True])
def test_the_accuracy_stage_asks_the_rule(sequential: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again where it takes the answers of a baseline that is kept."""
    world = world_of(tmp_path, 200)
    world.stacks = {name: answering(lambda n: n % 3 > 0) for name in ("native", "flagos")}
    job = world.job()
    profile = Profile(benchmarks={"mmlu-sample": Share()}, sequential=sequential)
    job = replace(job, cell=replace(job.cell, profile=profile))
    assert world.evaluate(job).verdict == "PASS"
    world.started.clear()
    monkeypatch.setattr(rule, "decide", strict)
    result = world.evaluate(job)
    assert result.verdict == result.benchmarks[0].verdict == "FAIL"
    assert "native" not in world.started


def test_speed_asks_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [100.0, 101.0, 99.0]
    assert speed.speed(runs, runs).verdict is Verdict.PASS
    monkeypatch.setattr(rule, "decide_speed", lambda _interval, _gate: Verdict.FAIL)
    assert speed.speed(runs, runs).verdict is Verdict.FAIL


# Nothing else decides.


def files(folder: Path, *but: str) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.py")) if path.relative_to(folder).as_posix() not in but]


def produced(tree: ast.AST) -> Iterator[int]:
    """Lines on which Verdict.PASS or Verdict.FAIL is a value, rather than compared with or looked up by."""
    read: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            read |= {node.left, *node.comparators}
        elif isinstance(node, ast.Dict):
            read |= {key for key in node.keys if key is not None}
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            read |= set(ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("PASS", "FAIL") and node not in read:
            yield node.lineno
        if isinstance(node, ast.Constant) and node.value in ("PASS", "FAIL") and node not in read:
            yield node.lineno


def weighed(tree: ast.AST) -> Iterator[int]:
    """Lines that put a margin or a gate in order with anything but a constant."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        operands = [node.left, *node.comparators]
        ordered = any(isinstance(one, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for one in node.ops)
        limits = [one for one in operands if names(one) & {"margin", "margins", "gate", "gates"}]
        others = [one for one in operands if one not in limits and not isinstance(one, ast.Constant)]
        if ordered and limits and (others or len(limits) > 1):
            yield node.lineno


def names(node: ast.AST) -> set[str]:
    inside = list(ast.walk(node))
    found = {one.id for one in inside if isinstance(one, ast.Name)}
    return found | {one.attr for one in inside if isinstance(one, ast.Attribute)}


def lines(search: Callable[[ast.AST], Iterator[int]], paths: Sequence[Path]) -> list[str]:
    return [f"{path.name}:{line}" for path in paths for line in search(ast.parse(path.read_text()))]


def test_only_the_rule_passes_or_fails_a_benchmark() -> None:
    assert lines(produced, files(ROOM, "rule.py", "types.py")) == []
    assert len(lines(produced, [ROOM / "rule.py"])) >= 5, "the search finds what it is for"


def test_only_the_rule_compares_an_interval_with_a_margin() -> None:
    assert lines(weighed, files(PACKAGE, "verdict/rule.py")) == []
    assert len(lines(weighed, [ROOM / "rule.py"])) >= 7, "the search finds what it is for"


def test_the_room_imports_what_lies_below_it() -> None:
    """errors, redact < store < verdict; of scipy, only `special`, which imports fast."""
    below = ("flagrelease.errors", "flagrelease.redact", "flagrelease.store", "flagrelease.verdict")
    for path in files(ROOM):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flagrelease"):
                assert (node.module or "").startswith(below), f"{path.name} imports {node.module}"
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scipy"):
                assert node.module == "scipy.special", f"{path.name} imports {node.module}"
            assert not (isinstance(node, ast.Import) and node.names[0].name.startswith("scipy"))
