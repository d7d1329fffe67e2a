"""Remove the operators at fault after a failed gate, and release the others. Pure.

A remedy is a stage outside the usual order. The operators that it removes become an input of the stage `again`, so that
this stage and all that read it get new keys and run again. The state is in the ledger only: which operators a cell
excludes follows from its entries under the remedy's keys, round by round. So a killed run resumes where it stopped, and
a cell whose chip, model or software has changed starts with all of its operators.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import msgspec

from flagrelease.contract.handles import Finished, Judged
from flagrelease.contract.job import Job
from flagrelease.contract.results import Attribution
from flagrelease.contract.stage import AnyStage, Remedy, keys
from flagrelease.errors import FlagreleaseError

if TYPE_CHECKING:
    from flagrelease.run.outcome import Outcome
    from flagrelease.store.ledger import Entry
    from flagrelease.store.parts import Keep

__all__ = ["resumed", "wanted", "without"]

ATTRIBUTABLE_FAILURES = frozenset({"SmokeFailed", "NeverReady", "DiedBeforeReady", "DiedLater"})
"""Errors of a gate that an operator can cause: the server answers wrongly, dies or hangs."""


class PastAttempts(Protocol):
    """Ledger entries of earlier attempts."""

    def last(self, cell: str, stage: str) -> Entry | None: ...

    def last_done(self, cell: str, stage: str, key: str | None = None) -> Entry | None: ...

    def kept(self, cell: str, stage: str, key: str) -> Keep | None: ...


def wanted(remedy: Remedy, job: Job, outcome: Outcome, done: Finished) -> bool:
    """Whether `outcome` is a failure that the cell's operators may have caused, and a round is left."""
    gates = {gate.stage for gate in remedy.gates}
    if outcome.stage not in gates or len(job.attributed) >= remedy.rounds:
        return False
    prepared = done.get(remedy.again)
    return prepared is not None and bool(prepared.operators) and _failed(outcome, done)


def _failed(outcome: Outcome, done: Finished) -> bool:
    if outcome.error is not None:
        return outcome.error.kind in ATTRIBUTABLE_FAILURES
    judged = done.named(outcome.stage)
    return isinstance(judged, Judged) and judged.verdict == "FAIL"


def without(job: Job, attribution: Attribution) -> Job:
    """The job without the culprits: excluded as a user would do it in the matrix, with the finding as the reason."""
    plan = job.cell.kernels
    reasons = {c.operator: f"taken out after round {attribution.round}: {c.finding}" for c in attribution.culprits}
    kernels = replace(plan, exclude={**plan.exclude, **reasons})
    return replace(job, cell=replace(job.cell, kernels=kernels), attributed=(*job.attributed, attribution))


def resumed(job: Job, stages: tuple[AnyStage, ...], remedy: Remedy, history: PastAttempts) -> Job:
    """The job after all rounds that earlier runs have finished."""
    cell, stage = job.cell.id, remedy.stage
    while history.last(cell, stage.name) is not None:
        try:
            key = keys(job, (*stages, stage), history)[stage.name].counts
            entry = history.last_done(cell, stage.name, key)
            attribution = None if entry is None else stage.result.decode(entry.result)
        except (
            FlagreleaseError,
            msgspec.ValidationError,
        ):  # not locked, which `plan` reports, or written by another version
            return job
        if attribution is None or not attribution.culprits:
            return job
        job = without(job, attribution)
    return job
