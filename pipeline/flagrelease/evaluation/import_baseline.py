"""Takes a baseline over from elsewhere: a file of answers with its conditions, an evidence folder, a published record.

What is taken over stands for an evaluation that was never made here. So everything that its answers depend on has to be
written down beside them and equal to what this project would ask: model, data, prompts, sampling, harness; and for a
record chip and stack as well, which a bare file does not tell and the one who imports it vouches for.
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
    """The answers to a sheet, as many as it asks for."""

    sheet: EvalSpec
    samples: tuple[Sample, ...]


def answers_of(path: Path, cell: Cell) -> Answers:
    """The answers behind PATH that are the cell's baseline. Of a record these are the ones of the stack and chip that
    the cell is compared with. Raises ComparisonRefused."""
    record = path / RECORD if path.is_dir() and not _bare(path) else path
    if record.name != RECORD and record.suffix != ".json":
        return load(path)
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        own = {"chip": content["chip_name"], "stack": content["stack"]}
        other = {"chip": content["baseline"]["chip"], "stack": content["baseline"]["stack"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ComparisonRefused(f"{record} is not a release record", why=repr(error)) from None
    wanted = {"chip": cell.baseline.chip, "stack": cell.baseline.stack}
    for stack, name in ((own, SAMPLES), (other, f"baseline.{SAMPLES}")):
        if stack == wanted:
            return in_record(record, name)
    raise ComparisonRefused(
        f"{record} has no answers of {baselines.name(cell)}",
        why=f"it has {own['stack']} on {own['chip']}, and {other['stack']} on {other['chip']} as its baseline",
        hint="the model's `baseline` in matrix.yaml says which chip and stack are wanted",
    )


def _bare(folder: Path) -> bool:
    return (folder / SAMPLES).is_file() or (folder / "evidence" / SAMPLES).is_file()


def fit(answers: Answers, model_digest: str, sheets: Sequence[EvalSpec]) -> list[Fitting]:
    """The sheets that were answered, with their answers. Raises ComparisonRefused, saying what differs, where any of
    them was answered under other conditions, in part, or mostly not at all; and where none was."""
    conditions = answers.conditions
    if conditions is None:
        raise ComparisonRefused(
            f"{answers.path} has no conditions",
            why=f"{CONDITIONS} beside it says of which model, data and sampling its answers are",
            hint="take the whole evidence folder",
        )
    if conditions.model != model_digest:
        raise _differs(answers, "the model", conditions.model, model_digest)
    given = {sample.benchmark for sample in answers.samples}
    wanted = [sheet for sheet in sheets if sheet.benchmark in given]
    if not wanted:
        raise ComparisonRefused(
            f"{answers.path} answers nothing that is asked here",
            why=f"it has {', '.join(sorted(given)) or 'no answers'}",
            hint=f"asked are {', '.join(sheet.benchmark for sheet in sheets)}; see --profile",
        )
    return [Fitting(sheet, _answers(answers, conditions, sheet)) for sheet in wanted]


def _answers(answers: Answers, conditions: Conditions, sheet: EvalSpec) -> tuple[Sample, ...]:
    name = sheet.benchmark
    theirs: dict[str, Any] = {
        "data": conditions.data.get(name),
        "sampling": conditions.sampling.get(name),
        "harness": conditions.harness.get(name, DEFAULT_HARNESS),
    }
    ours = {
        "data": sheet.data_sha256,
        "sampling": dict(sheet.evaluation.parameters),
        "harness": sheet.evaluation.harness,
    }
    for what in ours:
        if theirs[what] != ours[what]:
            raise _differs(answers, f"the {what} of {name}", theirs[what], ours[what])
    found = {sample.key: sample for sample in answers.samples if sample.benchmark == name}
    chosen = []
    for repeat in range(sheet.repeats):
        for question in sheet.questions:
            sample = found.get((name, question.subset, question.id, repeat))
            if sample is None:
                continue
            if sample.prompt_sha256 != question.prompt_sha256:
                where = f"the prompt of {name}/{question.subset}/{question.id}"
                raise _differs(answers, where, sample.prompt_sha256, question.prompt_sha256)
            chosen.append(sample)
    total = sheet.repeats * len(sheet.questions)
    if len(chosen) != total:
        raise ComparisonRefused(
            f"{answers.path} answers {name} in part",
            why=f"{len(chosen)} of {total} are there: {len(sheet.questions)} questions, {sheet.repeats} repeats",
            hint="evaluate the baseline in whole: `sequential: false` in its profile",
        )
    failed = sum(sample.error is not None for sample in chosen)
    if failed > Patience().allowed(total) or failed == total:
        raise ComparisonRefused(f"{answers.path} is no score of {name}", why=f"{failed} of {total} requests failed")
    return tuple(chosen)


def _differs(answers: Answers, what: str, theirs: object, ours: object) -> ComparisonRefused:
    return ComparisonRefused(
        f"{answers.path} is no baseline here: {what} differs",
        why=f"{theirs} there, {ours} here",
        hint="a baseline is asked the same questions, of the same model, in the same words, with the same sampling",
    )
