"""After a gate that failed: find the operators that did it, take them out, and release the rest. Pure.

A remedy is a stage outside the usual order. What it takes out becomes an input of the stage `again`, so that this one
and all that reads it have other keys and run anew. Only the ledger remembers: which operators a cell leaves out follows
from its entries under the remedy's own keys, round by round. So a killed run goes on where it was, and a cell whose
chip, model or software has changed starts from all of its operators.
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
"""Failures of a gate that an operator can be the cause of: what is served answers wrongly, dies or hangs."""


class PastAttempts(Protocol):
    def last(self, cell: str, stage: str) -> Entry | None: ...

    def last_done(self, cell: str, stage: str, key: str | None = None) -> Entry | None: ...

    def kept(self, cell: str, stage: str, key: str) -> Keep | None: ...


def wanted(remedy: Remedy, job: Job, outcome: Outcome, done: Finished) -> bool:
    """Whether `outcome` is a failure that the cell's operators may be the cause of, and a round is left."""
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


def without(job: Job, found: Attribution) -> Job:
    """The job less the culprits. They are taken out as a user does it by hand, with what was found as the reason."""
    plan = job.cell.kernels
    reasons = {one.operator: f"taken out after round {found.round}: {one.finding}" for one in found.culprits}
    kernels = replace(plan, exclude={**plan.exclude, **reasons})
    return replace(job, cell=replace(job.cell, kernels=kernels), attributed=(*job.attributed, found))


def resumed(job: Job, stages: tuple[AnyStage, ...], remedy: Remedy, history: PastAttempts) -> Job:
    """The job with every round that earlier runs have finished."""
    cell, stage = job.cell.id, remedy.stage
    while history.last(cell, stage.name) is not None:
        try:
            key = keys(job, (*stages, stage), history)[stage.name].counts
            entry = history.last_done(cell, stage.name, key)
            found = None if entry is None else stage.result.decode(entry.result)
        except (FlagreleaseError, msgspec.ValidationError):  # not locked, which `plan` says; of another version
            return job
        if found is None or not found.culprits:
            return job
        job = without(job, found)
    return job
