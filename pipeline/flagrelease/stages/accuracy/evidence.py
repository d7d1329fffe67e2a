"""Write the evidence of an evaluation: both answer sets, their conditions, and the comparison."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flagrelease.config.harness_names import DEFAULT_HARNESS
from flagrelease.contract import code_version, results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.evaluation import baselines, transcripts
from flagrelease.evaluation.collect import Pair, lines, may_be_stored
from flagrelease.evaluation.question import Task
from flagrelease.evaluation.transcripts import REPLIES
from flagrelease.store.evidence import Evidence
from flagrelease.verdict.noise import own_noise
from flagrelease.verdict.samples import CONDITIONS, SAMPLES, Conditions, Sample
from flagrelease.verdict.types import BenchmarkVerdict

DIFFERENCES = "accuracy/comparison.json"
FLIPPED = "accuracy/flipped.jsonl"


def write(
    job: Job, context: Context, pairs: Sequence[Pair], judged: Mapping[str, BenchmarkVerdict]
) -> tuple[Evidence, ...]:
    """Write both answer sets with their conditions, the comparison, and the flipped questions."""
    conditions = Conditions(
        model=context.result(results.WEIGHTS).digest,
        data={pair.spec.benchmark: pair.spec.data_sha256 for pair in pairs},
        sampling={pair.spec.benchmark: dict(pair.spec.evaluation.parameters) for pair in pairs},
        design={pair.spec.benchmark: pair.planned.record() for pair in pairs if pair.planned is not None},
        chance={pair.spec.benchmark: pair.spec.chance for pair in pairs},
        population={pair.spec.benchmark: pair.spec.total for pair in pairs},
        harness={
            evaluation.benchmark: evaluation.harness
            for pair in pairs
            if (evaluation := pair.spec.evaluation).harness != DEFAULT_HARNESS
        },
        graders={pair.spec.benchmark: grader(pair.spec.evaluation.task) for pair in pairs},
    )
    put = context.evidence.put
    written = [put(f"accuracy/{SAMPLES}", b"".join(lines(pair.candidate) for pair in pairs))]
    written.append(put(f"accuracy/{CONDITIONS}", conditions.dump().encode()))
    written += _replies(job, context, pairs)
    if judged:
        written.append(put(f"accuracy/baseline.{SAMPLES}", b"".join(lines(pair.baseline or ()) for pair in pairs)))
        written.append(put(DIFFERENCES, comparison(pairs, judged)))
        written.append(put(FLIPPED, flipped(pairs, judged)))
    return tuple(written)


def grader(task: Task) -> str:
    """The digest (hex) of the code that grades the task's answers."""
    return code_version.of_function(task.grade)


def _replies(job: Job, context: Context, pairs: Sequence[Pair]) -> Iterator[Evidence]:
    """Transcripts of the graded answers, except for password-protected data: answers quote questions."""
    public = [pair for pair in pairs if may_be_stored(job, pair.spec)]
    folder, weights = context.workspace.scratch(job.cell.slug, "accuracy"), context.result(results.WEIGHTS)
    stored = (baselines.replies(context, job.cell, weights, pair.spec) for pair in public if pair.baseline is not None)
    for name, sides, places in (
        (REPLIES, [pair.candidate for pair in public], [folder / "candidate"]),
        (f"baseline.{REPLIES}", [pair.baseline or () for pair in public], [*filter(None, stored), folder / "baseline"]),
    ):
        collected = transcripts.collect(places, {sample.key for side in sides for sample in side})
        if collected:
            yield context.evidence.put(f"accuracy/{name}", collected)


def comparison(pairs: Sequence[Pair], judged: Mapping[str, BenchmarkVerdict]) -> bytes:
    """The verdict on each benchmark, with the noise floor of its baseline."""
    return _pretty(
        {
            pair.spec.benchmark: {
                **asdict(judged[pair.spec.benchmark]),
                "noise": None if (noise := own_noise(pair.baseline)) is None else asdict(noise),
            }
            for pair in pairs
            if pair.baseline is not None
        }
    )


def flipped(pairs: Sequence[Pair], judged: Mapping[str, BenchmarkVerdict]) -> bytes:
    """One line per question whose majority answer changed, with the answers of both sides."""
    rows = []
    for pair in pairs:
        if pair.baseline is None:
            continue
        name = pair.spec.benchmark
        before, after = _by_question(pair.baseline), _by_question(pair.candidate)
        for direction, questions in (("gained", judged[name].gained), ("lost", judged[name].lost)):
            for question in questions:
                line = {
                    "benchmark": name,
                    "question": question,
                    "change": direction,
                    "baseline": before[question],
                    "candidate": after[question],
                }
                rows.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(rows).encode()


def _by_question(samples: Sequence[Sample]) -> dict[str, list[str | None]]:
    answers: dict[str, list[str | None]] = {}
    for sample in sorted(samples, key=lambda sample: sample.repeat):
        answers.setdefault(f"{sample.subset}/{sample.question_id}", []).append(sample.answer)
    return answers


def _pretty(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
