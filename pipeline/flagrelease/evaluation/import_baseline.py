"""Import a baseline from a samples file with its conditions, an evidence folder, or a published record.

An imported baseline replaces an evaluation by this project. So everything that its answers depend on must be recorded
with them and equal to what this project would use: model, data, prompts, sampling, harness; for a record also chip and
stack, which a samples file does not contain and the user vouches for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagrelease.config.cell import Cell
from flagrelease.config.harness_names import DEFAULT_HARNESS
from flagrelease.errors import ComparisonRefused
from flagrelease.evaluation import baselines
from flagrelease.evaluation.harness import Patience
from flagrelease.evaluation.spec import EvalSpec
from flagrelease.verdict.compare import Answers, in_record, load
from flagrelease.verdict.samples import CONDITIONS, SAMPLES, Conditions, Sample

__all__ = ["Fitting", "answers_of", "fit"]

RECORD = "release.json"


@dataclass(frozen=True)
class Fitting:
    """All answers to one benchmark, accepted as its baseline."""

    spec: EvalSpec
    """The benchmark's specification."""
    samples: tuple[Sample, ...]
    """One for each question and repeat."""


def answers_of(path: Path, cell: Cell) -> Answers:
    """Read the answers at PATH; of a record, those of the cell's baseline stack and chip. Raises ComparisonRefused."""
    record = path / RECORD if path.is_dir() and not _bare(path) else path
    if record.name != RECORD and record.suffix != ".json":
        return load(path)
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        own = {"chip": content["chip_name"], "stack": content["stack"]}
        other = {"chip": content["baseline"]["chip"], "stack": content["baseline"]["stack"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ComparisonRefused(f"{record} is not a release record", why=repr(error)) from None
    wanted = {"chip": cell.baseline.chip, "stack": cell.baseline.stack}
    for stack, name in ((own, SAMPLES), (other, f"baseline.{SAMPLES}")):
        if stack == wanted:
            return in_record(record, name)
    raise ComparisonRefused(
        f"{record} has no answers of {baselines.name(cell)}",
        why=f"it has {own['stack']} on {own['chip']}, and {other['stack']} on {other['chip']} as its baseline",
        hint="the model's `baseline` in matrix.yaml sets the required chip and stack",
    )


def _bare(folder: Path) -> bool:
    return (folder / SAMPLES).is_file() or (folder / "evidence" / SAMPLES).is_file()


def fit(answers: Answers, model_digest: str, specs: Sequence[EvalSpec]) -> list[Fitting]:
    """Match the answers with the benchmarks of a cell.

    Raises ComparisonRefused if the answers were given under other conditions, are incomplete, mostly failed, or are to
    none of the benchmarks.
    """
    conditions = answers.conditions
    if conditions is None:
        raise ComparisonRefused(
            f"{answers.path} has no conditions",
            why=f"{CONDITIONS} next to it records the model, data and sampling of its answers",
            hint="import the complete evidence folder",
        )
    if conditions.model != model_digest:
        raise _differs(answers, "the model", conditions.model, model_digest)
    given = {sample.benchmark for sample in answers.samples}
    wanted = [spec for spec in specs if spec.benchmark in given]
    if not wanted:
        raise ComparisonRefused(
            f"{answers.path} has no answers to the benchmarks of this cell",
            why=f"it has {', '.join(sorted(given)) or 'no answers'}",
            hint=f"the profile has {', '.join(spec.benchmark for spec in specs)}; see --profile",
        )
    return [Fitting(spec, _answers(answers, conditions, spec)) for spec in wanted]


def _answers(answers: Answers, conditions: Conditions, spec: EvalSpec) -> tuple[Sample, ...]:
    name = spec.benchmark
    theirs: dict[str, Any] = {
        "data": conditions.data.get(name),
        "sampling": conditions.sampling.get(name),
        "harness": conditions.harness.get(name, DEFAULT_HARNESS),
    }
    ours = {
        "data": spec.data_sha256,
        "sampling": dict(spec.evaluation.parameters),
        "harness": spec.evaluation.harness,
    }
    for condition in ours:
        if theirs[condition] != ours[condition]:
            raise _differs(answers, f"the {condition} of {name}", theirs[condition], ours[condition])
    by_key = {sample.key: sample for sample in answers.samples if sample.benchmark == name}
    chosen = []
    for repeat in range(spec.repeats):
        for question in spec.questions:
            sample = by_key.get((name, question.subset, question.id, repeat))
            if sample is None:
                continue
            if sample.prompt_sha256 != question.prompt_sha256:
                where = f"the prompt of {name}/{question.subset}/{question.id}"
                raise _differs(answers, where, sample.prompt_sha256, question.prompt_sha256)
            chosen.append(sample)
    total = spec.repeats * len(spec.questions)
    if len(chosen) != total:
        raise ComparisonRefused(
            f"{answers.path} is incomplete for {name}",
            why=f"it has {len(chosen)} of {total} answers ({len(spec.questions)} questions, {spec.repeats} repeats)",
            hint="evaluate the baseline completely: `sequential: false` in its profile",
        )
    failed = sum(sample.error is not None for sample in chosen)
    if failed > Patience().allowed(total) or failed == total:
        raise ComparisonRefused(
            f"{answers.path} has too many failures for a score of {name}", why=f"{failed} of {total} requests failed"
        )
    return tuple(chosen)


def _differs(answers: Answers, what: str, theirs: object, ours: object) -> ComparisonRefused:
    return ComparisonRefused(
        f"{answers.path} cannot be the baseline: {what} differs",
        why=f"{theirs} in the file, {ours} here",
        hint="a baseline must have the same model, questions, prompts and sampling",
    )
