"""Pair the answers of two sides by question, or refuse to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from flagrelease.errors import ComparisonRefused
from flagrelease.verdict.samples import Sample
from flagrelease.verdict.stats.paired import Pairs, Side
from flagrelease.verdict.types import SideCount

__all__ = ["PairedBenchmark", "pair"]


@dataclass(frozen=True, kw_only=True)
class PairedBenchmark:
    """The paired answers of one benchmark."""

    questions: tuple[str, ...]
    """SUBSET/ID of each row of `pairs`."""
    pairs: Pairs
    """The answers, paired by question."""
    baseline: SideCount
    """The baseline's score and counts."""
    candidate: SideCount
    """The candidate's score and counts."""


@dataclass
class _Answers:
    """The answers of one side to one benchmark. `row` numbers the questions, `rows` has the row of each answer."""

    row: dict[tuple[str, str], int] = field(default_factory=dict)
    prompt: list[str] = field(default_factory=list)
    cluster: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    repeats: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    failed: list[bool] = field(default_factory=list)
    errors: int = 0
    truncated: int = 0


def pair(
    baseline: Sequence[Sample], candidate: Sequence[Sample], *, clusters: Mapping[str, Mapping[str, str]]
) -> dict[str, PairedBenchmark]:
    """Pair the answers of two sides by benchmark and question. Raises ComparisonRefused."""
    sides = {"baseline": _gather(baseline, "baseline"), "candidate": _gather(candidate, "candidate")}
    for one, other in (("baseline", "candidate"), ("candidate", "baseline")):
        if missing := sides[one].keys() - sides[other].keys():
            raise ComparisonRefused(
                f"the {other} has no answers to {', '.join(sorted(missing))}",
                hint="evaluate both sides on the same benchmarks, or compare one benchmark at a time",
            )
    return {
        name: _pair(name, answers, sides["candidate"][name], clusters.get(name, {}))
        for name, answers in sides["baseline"].items()
    }


def _gather(samples: Sequence[Sample], side: str) -> dict[str, _Answers]:
    if not samples:
        raise ComparisonRefused(f"the {side} has no answers", hint="run its evaluation first")
    benchmarks: dict[str, _Answers] = {}
    for sample in samples:
        answers = benchmarks.get(sample.benchmark)
        if answers is None:
            answers = benchmarks[sample.benchmark] = _Answers()
        question = (sample.subset, sample.question_id)
        row = answers.row.setdefault(question, len(answers.prompt))
        if row == len(answers.prompt):
            answers.prompt.append(sample.prompt_sha256)
            answers.cluster.append(sample.cluster)
        elif answers.prompt[row] != sample.prompt_sha256:
            raise ComparisonRefused(
                f"the {side} asked {_name(sample.benchmark, question)} with two different prompts",
                hint="all repeats must use the same prompt; evaluate this side again",
            )
        answers.rows.append(row)
        answers.repeats.append(sample.repeat)
        answers.scores.append(sample.correct)
        answers.failed.append(sample.error is not None)
        if sample.error is not None:
            answers.errors += 1
        elif sample.finish_reason == "length":
            answers.truncated += 1
    for name, answers in benchmarks.items():
        _check_side(name, answers, side)
    return benchmarks


def _check_side(name: str, answers: _Answers, side: str) -> None:
    rows, repeats = np.array(answers.rows), np.array(answers.repeats)
    counts = np.bincount(rows)
    questions = list(answers.row)
    each = int(counts.max())
    order = np.lexsort((repeats, rows))
    same = (np.diff(rows[order]) == 0) & (np.diff(repeats[order]) == 0)
    if same.any():
        question = questions[rows[order[int(same.argmax())]]]
        raise ComparisonRefused(f"the {side} answered {_name(name, question)} twice with the same repeat")
    if short := np.flatnonzero(counts < each).tolist():
        raise ComparisonRefused(
            f"the {side} is incomplete in {name}",
            why=f"{len(short)} of {len(counts)} questions have fewer than {each} answers, "
            f"such as {_name(name, questions[short[0]])}",
            hint="an incomplete set is not a score: resume that evaluation",
        )
    if int(repeats.max()) >= each:
        row = rows[int(repeats.argmax())]
        raise ComparisonRefused(
            f"the {side} is incomplete in {name}",
            why=f"{_name(name, questions[row])} has a repeat {repeats.max()} and only {each} answers",
            hint="an incomplete set is not a score: resume that evaluation",
        )
    if answers.errors == len(rows):
        raise ComparisonRefused(
            f"all {len(rows)} answers of the {side} in {name} are errors", hint="see its server log"
        )


def _pair(name: str, a: _Answers, b: _Answers, stories: Mapping[str, str]) -> PairedBenchmark:
    for side, one, other in (("candidate", a, b), ("baseline", b, a)):
        if missing := one.row.keys() - other.row.keys():
            raise ComparisonRefused(
                f"the two sides answered different questions of {name}",
                why=f"the {side} lacks {len(missing)} of {len(one.row)}, such as {_name(name, min(missing))}",
                hint="evaluate both sides on the same data",
            )
    order = np.array([b.row[question] for question in a.row])
    asked = [b.prompt[row] for row in order]
    if asked != a.prompt:
        differing = [question for question, mine, other in zip(a.row, a.prompt, asked, strict=True) if mine != other]
        raise ComparisonRefused(
            f"the two sides were asked {name} with different prompts",
            why=f"{len(differing)} of {len(a.row)} questions, such as {_name(name, differing[0])}",
            hint="use the same data, shots and prompt template on both sides",
        )
    labels = [stories.get(question_id, cluster) for (_, question_id), cluster in zip(a.row, a.cluster, strict=True)]
    cluster = np.unique(labels, return_inverse=True)[1]
    return PairedBenchmark(
        questions=tuple(f"{subset}/{question_id}" for subset, question_id in a.row),
        pairs=Pairs(_side(a, np.arange(len(order))), _side(b, order), cluster),
        baseline=_count(a),
        candidate=_count(b),
    )


def _side(answers: _Answers, order: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Side:
    rows, scores = np.array(answers.rows), np.array(answers.scores, dtype=float)
    size = len(answers.prompt)
    return Side(
        np.bincount(rows, minlength=size)[order],
        np.bincount(rows, weights=scores, minlength=size)[order].astype(np.float64),
        np.bincount(rows, weights=scores**2, minlength=size)[order].astype(np.float64),
        np.bincount(rows, weights=answers.failed, minlength=size)[order].astype(np.int64) if answers.errors else None,
    )


def _count(answers: _Answers) -> SideCount:
    return SideCount(
        score=float(np.mean(answers.scores)),
        answers=len(answers.rows),
        repeats=len(answers.rows) // len(answers.row),
        errors=answers.errors,
        truncated=answers.truncated,
    )


def _name(benchmark: str, question: tuple[str, str]) -> str:
    return "/".join(part for part in (benchmark, *question) if part)
