"""Baseline evaluations: made once for a model, kept by what they depend on, used by every cell of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from flagrelease.cell import Cell, fingerprint
from flagrelease.errors import Corrupt
from flagrelease.evaluation.sheet import Sheet
from flagrelease.evidence import Evidence, EvidenceStore
from flagrelease.results import Weights
from flagrelease.samples import Sample, read_samples
from flagrelease.stage import Context

__all__ = ["StoredBaseline", "complete", "find", "keep", "key", "name", "need"]


@dataclass(frozen=True, kw_only=True)
class StoredBaseline:
    """One benchmark answered by the baseline stack, as the ledger keeps it. `score` is a fraction of 1.

    What grew beside a sequential candidate may be a part: `n` questions, `repeats` times on average.
    """

    benchmark: str
    model: str
    chip: str
    stack: str
    data_sha256: str
    n: int
    repeats: float
    score: float
    errors: int
    samples: Evidence
    run: str


def key(cell: Cell, weights: Weights, sheet: Sheet) -> str:
    """What a baseline depends on: model, data, prompts, sampling, stack and chip; not the image, not the cell."""
    return fingerprint(
        {
            "model": weights.digest,
            "engine": cell.model.serve.engine,
            "chip": cell.baseline.chip,
            "stack": cell.baseline.stack,
            **sheet.conditions,
        }
    )


def name(cell: Cell) -> str:
    """What the card calls the baseline: `native on nvidia-h100`."""
    return f"{cell.baseline.stack} on {cell.baseline.chip}"


def need(cell: Cell) -> str:
    """What to do about a baseline that is not there."""
    other = f"{cell.baseline.chip}/{cell.model_name}"
    return (
        f"no baseline: {cell.model_name} was never evaluated {name(cell)} with these questions; run `flagrelease run "
        f"{other} --profile {cell.profile_name}` first, or set the model's baseline to {{chip: same}}"
    )


def find(context: Context, cell: Cell, weights: Weights, sheet: Sheet) -> list[Sample] | None:
    """The answers of the kept baseline; None where there is none, or its evidence is gone or damaged."""
    found = context.recall(key(cell, weights, sheet))
    if found is None:
        return None
    try:
        stored = msgspec.convert(found, StoredBaseline, from_attributes=True)
        return _read(context.evidence, stored)
    except (msgspec.ValidationError, Corrupt) as error:
        context.progress.note(f"the kept baseline of {sheet.benchmark} cannot be used and is made again: {error}")
        return None


def keep(
    context: Context, cell: Cell, weights: Weights, sheet: Sheet, samples: Sequence[Sample], evidence: Evidence
) -> None:
    """Put a baseline evaluation into the ledger, for every cell of the model."""
    questions = len({(one.subset, one.question_id) for one in samples})
    stored = StoredBaseline(
        benchmark=sheet.benchmark,
        model=weights.digest,
        chip=cell.baseline.chip,
        stack=cell.baseline.stack,
        data_sha256=sheet.data_sha256,
        n=questions,
        repeats=round(len(samples) / questions, 2),
        score=sum(float(sample.correct) for sample in samples) / len(samples),
        errors=sum(sample.error is not None for sample in samples),
        samples=evidence,
        run=context.run_id,
    )
    context.remember(key(cell, weights, sheet), stored)


def complete(samples: Sequence[Sample], sheet: Sheet) -> bool:
    """Whether every question of the sheet is answered as often as it is to be."""
    there = {(one.subset, one.question_id, one.repeat) for one in samples}
    return all((one.subset, one.id, repeat) in there for one in sheet.questions for repeat in range(sheet.repeats))


def _read(store: EvidenceStore, stored: StoredBaseline) -> list[Sample]:
    store.read(stored.samples)  # checks every byte
    return read_samples(store.path(stored.samples))
