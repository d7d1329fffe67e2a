"""Store baseline evaluations by what they depend on, for use by every cell of a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import msgspec

from flagrelease.config.cell import Cell, fingerprint
from flagrelease.contract.context import Context
from flagrelease.errors import Corrupt
from flagrelease.evaluation.spec import EvalSpec
from flagrelease.store.evidence import Evidence, EvidenceStore
from flagrelease.store.ledger import Entry
from flagrelease.verdict.samples import Sample, read_samples

__all__ = ["StoredBaseline", "absent", "complete", "find", "keep", "key", "known", "name", "need", "replies", "stored"]


class Digested(Protocol):
    """The weights, as recorded by the weights stage or matrix.lock."""

    @property
    def digest(self) -> str:
        """The digest of the weights."""
        ...


@dataclass(frozen=True, kw_only=True)
class StoredBaseline:
    """A baseline evaluation of one benchmark in the ledger; partial if a sequential design stopped early."""

    benchmark: str
    """The benchmark's name in matrix.yaml."""
    model: str
    """The digest of the weights."""
    chip: str
    """The chip's name in matrix.yaml."""
    stack: str
    """The stack that answered."""
    data_sha256: str
    """The digest of the benchmark's data."""
    n: int
    """Questions answered."""
    repeats: float
    """Answers per question on average."""
    score: float
    """The mean grade, a fraction of 1."""
    errors: int
    """Answers that are failed requests."""
    samples: Evidence
    """The samples file."""
    replies: Evidence | None = None
    """The replies, to grade them again; None if there are none that may be stored."""
    run: str
    """The id of the run that stored it."""
    source: str = ""
    """The file or record it was imported from; empty if it was evaluated here."""


def key(cell: Cell, weights: Digested, spec: EvalSpec) -> str:
    """The fingerprint of a baseline: model, data, prompts, sampling, stack and chip, but neither image nor cell."""
    return fingerprint(
        {
            "model": weights.digest,
            "engine": cell.model.serve.engine,
            "chip": cell.baseline.chip,
            "stack": cell.baseline.stack,
            **spec.conditions,
        }
    )


def name(cell: Cell) -> str:
    """The baseline's name on the card: `native on nvidia-h100`."""
    return f"{cell.baseline.stack} on {cell.baseline.chip}"


def need(cell: Cell) -> str:
    """What to do about a missing baseline."""
    other = f"{cell.baseline.chip}/{cell.model_name}"
    return (
        f"no baseline: {cell.model_name} was never evaluated {name(cell)} with these questions; run `flagrelease run "
        f"{other} --profile {cell.profile_name}` first, import one (`flagrelease baseline import`), or set the model's "
        f"baseline to {{chip: same}}"
    )


def find(context: Context, cell: Cell, weights: Digested, spec: EvalSpec) -> list[Sample] | None:
    """The answers of the stored baseline; None if there is none, or its evidence is missing or damaged."""
    try:
        baseline = context.shared.recall(key(cell, weights, spec), StoredBaseline)
        return None if baseline is None else _read(context.evidence, baseline)
    except (msgspec.ValidationError, Corrupt) as error:
        context.progress.note(f"the stored baseline of {spec.benchmark} cannot be used and is evaluated again: {error}")
        return None


def replies(context: Context, cell: Cell, weights: Digested, spec: EvalSpec) -> Path | None:
    """The file of the stored baseline's replies; None if there is none that can be used."""
    try:
        baseline = context.shared.recall(key(cell, weights, spec), StoredBaseline)
        if baseline is None or baseline.replies is None:
            return None
        context.evidence.read(baseline.replies)  # checks every byte
    except (msgspec.ValidationError, Corrupt):
        return None
    return context.evidence.path(baseline.replies)


def keep(
    context: Context,
    cell: Cell,
    weights: Digested,
    spec: EvalSpec,
    samples: Sequence[Sample],
    evidence: Evidence,
    replies: Evidence | None = None,
) -> None:
    """Record a baseline evaluation in the ledger, for every cell of the model."""
    made = stored(cell, weights, spec, samples, evidence, context.run_id)
    context.shared.remember(key(cell, weights, spec), replace(made, replies=replies))


def stored(
    cell: Cell,
    weights: Digested,
    spec: EvalSpec,
    samples: Sequence[Sample],
    evidence: Evidence,
    run: str,
    source: str = "",
) -> StoredBaseline:
    """Summarize a baseline evaluation for the ledger."""
    questions = len({(sample.subset, sample.question_id) for sample in samples})
    return StoredBaseline(
        benchmark=spec.benchmark,
        model=weights.digest,
        chip=cell.baseline.chip,
        stack=cell.baseline.stack,
        data_sha256=spec.data_sha256,
        n=questions,
        repeats=round(len(samples) / questions, 2),
        score=sum(float(sample.correct) for sample in samples) / len(samples),
        errors=sum(sample.error is not None for sample in samples),
        samples=evidence,
        run=run,
        source=source,
    )


def known(entries: Iterable[Entry]) -> dict[str, tuple[Entry, StoredBaseline]]:
    """The newest baseline evaluation of each key, oldest first; other shared entries are skipped."""
    newest: dict[str, tuple[Entry, StoredBaseline]] = {}
    for entry in entries:
        if entry.stage == "baseline" and entry.state == "done":
            try:
                baseline = msgspec.convert(entry.result, StoredBaseline)
            except msgspec.ValidationError:
                continue
            newest.pop(entry.key, None)
            newest[entry.key] = entry, baseline
    return newest


def absent(context: Context, key: str) -> bool:
    """Whether there is no baseline evaluation under this key, in any version of the format."""
    try:
        return context.shared.recall(key, StoredBaseline) is None
    except msgspec.ValidationError:
        return False


def complete(samples: Sequence[Sample], spec: EvalSpec) -> bool:
    """Whether every question has an answer for each repeat."""
    answered = {(sample.subset, sample.question_id, sample.repeat) for sample in samples}
    return all(
        (question.subset, question.id, repeat) in answered
        for question in spec.questions
        for repeat in range(spec.repeats)
    )


def _read(store: EvidenceStore, stored: StoredBaseline) -> list[Sample]:
    store.read(stored.samples)  # checks every byte
    return read_samples(store.path(stored.samples))
