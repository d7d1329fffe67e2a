"""Read the answers of a release, and rebuild the specification by which they were asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from flagrelease.config.lockfile import Lock, LockedData
from flagrelease.contract.accuracy_results import BenchmarkScore
from flagrelease.errors import ComparisonRefused, ConfigError, FlagreleaseError
from flagrelease.evaluation import datasets
from flagrelease.evaluation.question import Question, Task
from flagrelease.evaluation.request import Evaluation
from flagrelease.evaluation.spec import EvalSpec, build_spec
from flagrelease.evaluation.tasks import task_named
from flagrelease.evaluation.transcripts import REPLIES
from flagrelease.stages.card.record import Record
from flagrelease.store.digests import file_sha256
from flagrelease.verdict.samples import CONDITIONS, SAMPLES, Conditions, Key, Sample, read_conditions, read_samples
from flagrelease.verification.release import Release

__all__ = ["Answers", "Asked", "Side", "asked", "read"]

STAGE = "accuracy"
_BASELINE = "baseline."


@dataclass(frozen=True, kw_only=True)
class Side:
    """The answers of one stack."""

    name: str
    """Its name on the card."""
    samples: Mapping[str, Sequence[Sample]]
    """By benchmark."""
    replies: Mapping[Key, str]
    """The stored replies."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """All answers of a release."""

    baseline: Side
    candidate: Side
    conditions: Conditions


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The specification of one benchmark."""

    spec: EvalSpec
    known: bool
    """Whether its questions are known; else they stand for those that were answered, without text and reference."""
    why: str = ""
    """Why they are not."""


def read(release: Release) -> Answers | str:
    """The answers, or why there are none. Raises ComparisonRefused for files that cannot be read."""
    names = (SAMPLES, f"{_BASELINE}{SAMPLES}", CONDITIONS)
    candidate, baseline, described = (release.find(STAGE, f"{STAGE}/{name}") for name in names)
    if candidate is None or described is None:
        return "the record names no answers"
    if missing := [path.name for path in (candidate, baseline, described) if path is not None and not path.is_file()]:
        return f"missing in the folder: {', '.join(missing)}"
    conditions = read_conditions(described)
    assert conditions is not None  # noqa: S101 - the file exists
    record = release.record
    return Answers(
        baseline=_side(release, _BASELINE, record.accuracy.baseline_name, baseline),
        candidate=_side(release, "", record.candidate_name, candidate),
        conditions=conditions,
    )


def _side(release: Release, prefix: str, name: str, samples: Path | None) -> Side:
    by_benchmark: dict[str, list[Sample]] = {}
    for sample in () if samples is None else read_samples(samples):
        by_benchmark.setdefault(sample.benchmark, []).append(sample)
    path = release.find(STAGE, f"{STAGE}/{prefix}{REPLIES}")
    replies = dict(_replies(path)) if path is not None and path.is_file() else {}
    return Side(name=name, samples=by_benchmark, replies=replies)


class _Reply(msgspec.Struct, frozen=True):
    """A line of a transcript."""

    benchmark: str
    subset: str
    question_id: str
    repeat: int
    text: str


def _replies(path: Path) -> Iterator[tuple[Key, str]]:
    seen: set[Key] = set()
    decode = msgspec.json.Decoder(_Reply).decode
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            reply = decode(line)
        except (ValueError, RecursionError) as error:
            raise ComparisonRefused(f"{path.name}:{number}: not a reply", why=str(error)) from None
        key = (reply.benchmark, reply.subset, reply.question_id, reply.repeat)
        if key in seen:
            raise ComparisonRefused(f"{path.name}:{number}: a second reply to the same answer")
        seen.add(key)
        yield key, reply.text


def asked(record: Record, row: BenchmarkScore, answers: Answers, folders: Sequence[Path]) -> Asked:
    """The specification of a benchmark, with its questions if they can be drawn again or lie in one of `folders`."""
    name = row.benchmark
    try:
        return Asked(spec=_built(record, name, folders), known=True)
    except FlagreleaseError as error:
        why = error.line()
    return Asked(spec=_stand_in(record, row, answers), known=False, why=why)


def _built(record: Record, name: str, folders: Sequence[Path]) -> EvalSpec:
    if name not in record.benchmarks or name not in record.profile.benchmarks:
        raise ConfigError(f"the record does not say how {name} was asked")
    benchmark, share = record.benchmarks[name], record.profile.benchmarks[name]
    task = task_named(benchmark.task, name)
    lock = Lock(benchmarks=dict(record.pins.benchmarks))
    problem: FlagreleaseError | None = None
    for folder in folders or (None,):

        def fetch(locked: LockedData, folder: Path | None = folder) -> Path:
            return _fetched(locked, folder)

        try:
            data = datasets.load(name, benchmark, lock, folder, fetch)
            return build_spec(name, benchmark, task, share, data, record.model, record.profile.harness)
        except FlagreleaseError as error:
            problem = problem or error
    assert problem is not None  # noqa: S101 - the loop runs at least once
    raise problem


def _fetched(locked: LockedData, folder: Path | None) -> Path:
    """The file with the locked name and digest, anywhere in `folder`. Raises ConfigError.

    The name counts, since tasks read the subset of some questions from it.
    """
    file = locked.file
    name = PurePosixPath(file.path).name
    for path in () if folder is None else sorted(folder.rglob("*")):
        if (
            path.name == name
            and path.is_file()
            and path.stat().st_size == file.size
            and file_sha256(path) == file.sha256
        ):
            return path
    where = "no --data-dir is given" if folder is None else f"{folder} has no {name} with sha256 {file.sha256[:12]}…"
    raise ConfigError(f"its questions are {locked.source}", why=where)


def _stand_in(record: Record, row: BenchmarkScore, answers: Answers) -> EvalSpec:
    """The specification as far as the record has it."""
    name, conditions = row.benchmark, answers.conditions
    samples = answers.candidate.samples.get(name, ())
    design = conditions.design.get(name, {}).get("questions") or [(each.subset, each.question_id) for each in samples]
    chance = float(conditions.chance.get(name, 0.0))
    questions = tuple(
        Question(subset=subset, id=question, messages=(), reference=None)
        for subset, question in dict.fromkeys((str(subset), str(question)) for subset, question in design)
    )
    benchmark = record.benchmarks[name]
    task = Task(name=benchmark.task, read=lambda _data, _shots: (), grade=_ungraded, guess=lambda _question: chance)
    return EvalSpec(
        benchmark=name,
        title=benchmark.title,
        shots=benchmark.shots,
        evaluation=Evaluation(
            benchmark=name,
            task=task,
            asks=(),
            parameters=conditions.sampling.get(name, {}),
            concurrency=1,
            harness=benchmark.harness or record.profile.harness,
        ),
        questions=questions,
        repeats=max((sample.repeat + 1 for sample in samples), default=1),
        total=conditions.population.get(name, len(questions)),
        margin=benchmark.margin,
        data_sha256=conditions.data.get(name, ""),
    )


def _ungraded(_question: Question, _reply: Any) -> Any:
    raise AssertionError("a question that is not known cannot be graded")
