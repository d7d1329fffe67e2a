"""Baseline evaluations: made once for a model, kept by what they depend on, used by every cell of the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from flagrelease.config.cell import Cell, fingerprint
from flagrelease.contract.context import Context
from flagrelease.errors import Corrupt
from flagrelease.evaluation.spec import EvalSpec
from flagrelease.store.evidence import Evidence, EvidenceStore
from flagrelease.store.ledger import Entry
from flagrelease.verdict.samples import Sample, read_samples

__all__ = ["StoredBaseline", "absent", "complete", "find", "keep", "key", "known", "name", "need", "stored"]


class Digested(Protocol):
    """The weights, as the weights stage or matrix.lock has them."""

    @property
    def digest(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class StoredBaseline:
    """One benchmark answered by the baseline stack, as the ledger keeps it. `score` is a fraction of 1.

    What grew beside a sequential candidate may be a part: `n` questions, `repeats` times on average. `source` is the
    file or record that it was imported from; it is empty for what was evaluated here.
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
    source: str = ""


def key(cell: Cell, weights: Digested, sheet: EvalSpec) -> str:
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
        f"{other} --profile {cell.profile_name}` first, import one (`flagrelease baseline import`), or set the model's "
        f"baseline to {{chip: same}}"
    )


def find(context: Context, cell: Cell, weights: Digested, sheet: EvalSpec) -> list[Sample] | None:
    """The answers of the kept baseline; None where there is none, or its evidence is gone or damaged."""
    try:
        found = context.shared.recall(key(cell, weights, sheet), StoredBaseline)
        return None if found is None else _read(context.evidence, found)
    except (msgspec.ValidationError, Corrupt) as error:
        context.progress.note(f"the kept baseline of {sheet.benchmark} cannot be used and is made again: {error}")
        return None


def keep(
    context: Context, cell: Cell, weights: Digested, sheet: EvalSpec, samples: Sequence[Sample], evidence: Evidence
) -> None:
    """Put a baseline evaluation into the ledger, for every cell of the model."""
    context.shared.remember(key(cell, weights, sheet), stored(cell, weights, sheet, samples, evidence, context.run_id))


def stored(
    cell: Cell,
    weights: Digested,
    sheet: EvalSpec,
    samples: Sequence[Sample],
    evidence: Evidence,
    run: str,
    source: str = "",
) -> StoredBaseline:
    """What the ledger keeps of a baseline evaluation."""
    questions = len({(one.subset, one.question_id) for one in samples})
    return StoredBaseline(
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
        run=run,
        source=source,
    )


def known(entries: Iterable[Entry]) -> dict[str, tuple[Entry, StoredBaseline]]:
    """The newest baseline evaluation of each key, oldest first; what else cells share is passed over."""
    found: dict[str, tuple[Entry, StoredBaseline]] = {}
    for entry in entries:
        if entry.stage == "baseline" and entry.state == "done":
            try:
                one = msgspec.convert(entry.result, StoredBaseline)
            except msgspec.ValidationError:
                continue
            found.pop(entry.key, None)
            found[entry.key] = entry, one
    return found


def absent(context: Context, key: str) -> bool:
    """Whether there is no baseline evaluation under this key, of whatever version."""
    try:
        return context.shared.recall(key, StoredBaseline) is None
    except msgspec.ValidationError:
        return False


def complete(samples: Sequence[Sample], sheet: EvalSpec) -> bool:
    """Whether every question of the sheet is answered as often as it is to be."""
    there = {(one.subset, one.question_id, one.repeat) for one in samples}
    return all((one.subset, one.id, repeat) in there for one in sheet.questions for repeat in range(sheet.repeats))


def _read(store: EvidenceStore, stored: StoredBaseline) -> list[Sample]:
    store.read(stored.samples)  # checks every byte
    return read_samples(store.path(stored.samples))
