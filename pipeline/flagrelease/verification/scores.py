"""Compute the scores and verdicts of a release again from its answers, by the functions that made them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flagrelease.config.harness_names import DEFAULT_HARNESS, HARNESS_LABELS
from flagrelease.contract.accuracy_results import BenchmarkScore
from flagrelease.errors import FlagreleaseError
from flagrelease.evaluation.attempts import Turn
from flagrelease.evaluation.collect import Pair
from flagrelease.evaluation.harnesses.choose import HARNESSES
from flagrelease.stages.accuracy import evidence
from flagrelease.stages.accuracy.judge import judge, score, score_alone
from flagrelease.stages.card.record import Record
from flagrelease.verdict import group_sequential, rule
from flagrelease.verdict.attempts import Attempt, judged_answers, level
from flagrelease.verdict.types import Ask, BenchmarkVerdict, Verdict, reasons
from flagrelease.verification.answers import STAGE, Answers, Asked
from flagrelease.verification.findings import Check, agrees, differs, not_checked
from flagrelease.verification.release import Release
from flagrelease.verification.values import differences

__all__ = ["checks"]

_CHECK = "score"


@dataclass(frozen=True, kw_only=True)
class _Paired:
    """A benchmark that can be judged again."""

    row: BenchmarkScore
    pair: Pair


def checks(release: Release, answers: Answers | str, asked: Mapping[str, Asked]) -> Iterator[Check]:
    """Compare the score and the verdict of each benchmark, then those of the cell, with the record."""
    record = release.record
    rows, published = record.accuracy.benchmarks, release.sums is not None
    if isinstance(answers, str):
        yield from (not_checked(_CHECK, row.benchmark, answers, decisive=True) for row in rows)
        yield from _cell(record, rows, again=False, published=published)
        return
    paired: list[_Paired] = []
    for row in rows:
        made = _pair(record, row, answers, asked.get(row.benchmark))
        if isinstance(made, Check):
            yield made
        else:
            paired.append(made)
    judged: dict[str, BenchmarkVerdict] = {}
    try:
        judged = judge([each.pair for each in paired])
    except FlagreleaseError as error:
        yield differs(_CHECK, "all benchmarks", error.line())
    computed = {row.benchmark: row for row in rows}
    for each in paired:
        name = each.row.benchmark
        if each.pair.baseline is not None and name not in judged:
            continue
        computed[name] = _score(each, judged)
        yield from _compared(each, computed[name])
        yield from _attempts(each)
    yield from _unknown(rows, answers)
    yield from _comparison(release, paired, judged)
    again = {each.row.benchmark for each in paired} == computed.keys()
    yield from _cell(record, tuple(computed.values()), again=again, published=published)


def _pair(record: Record, row: BenchmarkScore, answers: Answers, asked: Asked | None) -> _Paired | Check:
    """Both sides' answers with the design by which they were asked, or the line that says why not."""
    name = row.benchmark
    benchmark = record.benchmarks.get(name)
    harness = DEFAULT_HARNESS if benchmark is None else benchmark.harness or record.profile.harness
    candidate = answers.candidate.samples.get(name)
    baseline = answers.baseline.samples.get(name)
    if candidate is None or asked is None:
        if HARNESSES[harness].make is None:
            return not_checked(_CHECK, name, f"{HARNESS_LABELS[harness]} gives scores without answers")
        return differs(_CHECK, name, "there are no answers to it")
    if row.baseline is None:
        return _Paired(row=row, pair=Pair(spec=asked.spec, baseline=None, candidate=candidate))
    if baseline is None:
        return differs(_CHECK, name, "there are no answers of the baseline")
    design = answers.conditions.design.get(name)
    if design is None:
        judged = judged_answers(asked.spec.margin, baseline, candidate)
        turn = _turn(row, judged)
        return _Paired(row=row, pair=Pair(spec=asked.spec, baseline=baseline, candidate=candidate, turn=turn))
    try:
        planned = group_sequential.read(design, name)
        group_sequential.check(planned, name, baseline, candidate)
        step = planned.evaluation.next(group_sequential.scores(baseline), group_sequential.scores(candidate))
    except FlagreleaseError as error:
        return differs(_CHECK, name, error.line())
    if isinstance(step, Ask):
        wanted = len(step.candidate or step.baseline)
        return differs(_CHECK, name, f"look {step.look} of its design has {wanted} answers less than it needs")
    judged = judged_answers(planned.record(), *group_sequential.judged(planned, step, baseline, candidate))
    pair = Pair(
        spec=asked.spec,
        baseline=baseline,
        candidate=candidate,
        planned=planned,
        decision=step,
        turn=_turn(row, judged),
    )
    return _Paired(row=row, pair=pair)


def _turn(row: BenchmarkScore, judged: str) -> Turn | None:
    """The attempt that these answers are; None if the record lists no attempts."""
    numbers = [attempt.number for attempt in row.attempts if attempt.judged == judged]
    return Turn(lineage="", earlier=(), number=numbers[0] if numbers else 1, judged=judged) if row.attempts else None


def _score(each: _Paired, judged: Mapping[str, BenchmarkVerdict]) -> BenchmarkScore:
    row, pair = each.row, each.pair
    made = score_alone(pair, row.reason) if pair.baseline is None else score(pair, judged[row.benchmark])
    return replace(made, attempts=row.attempts)


def _compared(each: _Paired, computed: BenchmarkScore) -> Iterator[Check]:
    name = each.row.benchmark
    found = [*differences(each.row, computed, without=("attempts",)), *_design(each)]
    yield from (differs(_CHECK, name, text) for text in found)
    if not found:
        detail = f"{computed.candidate:.3f} over {computed.n:,} questions, {computed.verdict}"
        if computed.difference is not None and computed.interval90 is not None:
            low, high = computed.interval90
            detail += f"; difference {computed.difference:+.3f} [{low:+.3f}, {high:+.3f}]"
        yield agrees(_CHECK, name, f"computed again: {detail}")


def _design(each: _Paired) -> Iterator[str]:
    """What the recorded design and the benchmark as it is in the record have in common."""
    planned, spec = each.pair.planned, each.pair.spec
    if planned is None:
        return
    for field, designed, known in (
        ("margin", planned.margin, spec.margin),
        ("chance", planned.chance, spec.chance),
        ("repeats", planned.repeats, spec.repeats),
        ("population", planned.population or spec.total, spec.total),
        ("questions", set(planned.questions), {(question.subset, question.id) for question in spec.questions}),
    ):
        if designed != known and not (isinstance(designed, float) and abs(designed - float(known)) < 1e-9):  # type: ignore[arg-type]
            yield f"{field} of the design is not that of the benchmark"


def _attempts(each: _Paired) -> Iterator[Check]:
    """The answers are one of the attempts that the record lists, judged at the level of its number."""
    row, pair = each.row, each.pair
    if not row.attempts or pair.turn is None:
        return
    subject = f"{row.benchmark}, attempts"
    matching = [attempt for attempt in row.attempts if attempt.judged == pair.turn.judged]
    found = [f"attempt {a.number} has level {a.level:g}, not {level(a.number):g}" for a in row.attempts if _wrong(a)]
    if [attempt.number for attempt in row.attempts] != list(range(1, len(row.attempts) + 1)):
        found.append("the attempts are not numbered from 1")
    if not matching:
        found.append("none of them is the judgement of these answers by this design")
    for attempt in matching[:1]:
        if pair.planned is not None and abs(pair.planned.alpha - attempt.level) > 1e-12:
            found.append(f"the design has level {pair.planned.alpha:g}, attempt {attempt.number} {attempt.level:g}")
        recorded = (attempt.difference, list(attempt.interval90), attempt.verdict)
        found += differences(
            dict(zip(("difference", "interval90", "verdict"), recorded, strict=True)),
            {"difference": row.difference, "interval90": row.interval90, "verdict": row.verdict},
        )
    yield from (differs(_CHECK, subject, text) for text in found)
    if not found:
        number, count = matching[0].number, len(row.attempts)
        yield agrees(_CHECK, subject, f"attempt {number} of {count}, at level {matching[0].level:g}")


def _wrong(attempt: Attempt) -> bool:
    return attempt.number < 1 or abs(attempt.level - level(attempt.number)) > 1e-12


def _unknown(rows: Sequence[BenchmarkScore], answers: Answers) -> Iterator[Check]:
    """Answers to benchmarks that the record has not."""
    named = {row.benchmark for row in rows}
    for side in (answers.baseline, answers.candidate):
        for name in sorted(side.samples.keys() - named):
            yield differs(_CHECK, name, f"{side.name} answered it, and the record has no score of it")


def _comparison(release: Release, paired: Sequence[_Paired], judged: Mapping[str, BenchmarkVerdict]) -> Iterator[Check]:
    """The files that the comparison wrote."""
    pairs = [each.pair for each in paired if each.pair.spec.benchmark in judged]
    for name, write in ((evidence.DIFFERENCES, evidence.comparison), (evidence.FLIPPED, evidence.flipped)):
        path = release.find(STAGE, name)
        if path is None or not path.is_file() or not judged:
            continue
        try:
            found = differences(_parsed(path.read_bytes()), _parsed(write(pairs, judged)))
        except ValueError as error:
            found = [f"not JSON: {error}"]
        yield from (differs(_CHECK, name, text) for text in found[:10])
        if not found:
            yield agrees(_CHECK, name, "computed again from the answers")


def _parsed(raw: bytes) -> Any:
    text = raw.decode()
    return (
        json.loads(text)
        if text.startswith("{\n")
        else {str(number): json.loads(line) for number, line in enumerate(text.splitlines(), 1)}
    )


def _cell(record: Record, rows: Sequence[BenchmarkScore], *, again: bool, published: bool) -> Iterator[Check]:
    """The verdict of the accuracy gate by the rule, and that of a published release."""
    gate = record.accuracy.token_gate
    tokens = None if gate is None or gate.verdict is None else Verdict(gate.verdict)
    verdict = rule.decide_cell(rows, tokens)
    why = reasons(verdict, rows) or (f"token gate: {gate.reason}" if gate is not None else "")
    found = differences(
        {"verdict": record.accuracy.verdict, "reason": record.accuracy.reason},
        {"verdict": verdict.value, "reason": why},
    )
    yield from (differs("verdict", "accuracy", text) for text in found)
    if not found:
        source = "the scores computed again" if again else "the record's scores, as far as they were not computed again"
        yield agrees("verdict", "accuracy", f"{verdict.value} by the rule, from {source}")
    yield from _published(record, published=published)


def _published(record: Record, *, published: bool) -> Iterator[Check]:
    """What is published has passed every gate."""
    failed = [check.name for check in record.smoke.checks if not check.passed]
    text = "; ".join([record.verdict, *(f"smoke check {name} failed" for name in failed)])
    if record.verdict == "PASS" and not failed:
        yield agrees("verdict", record.cell, "PASS, the worst of the gates")
    elif published:
        yield differs("verdict", record.cell, f"published, but {text}")
    else:
        yield agrees("verdict", record.cell, f"{text}, the worst of the gates; it is a draft")
