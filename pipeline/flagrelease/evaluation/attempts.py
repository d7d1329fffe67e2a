"""Remember the judgements of a lineage: they share one budget of error.

A lineage is a cell with its weights and its software (base image, packages, versions of the FlagOS parts), judged on a
benchmark (data, prompts, sampling, harness) against one baseline. What can be turned after a look at the result does
not start another one: operators left out by attribution or by hand, tuning, options of the server, the size of the
profile, the margin. Attempts are in the ledger, among the values that cells share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from flagrelease.config.cell import fingerprint
from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.evaluation.spec import EvalSpec
from flagrelease.verdict.attempts import Attempt, level

__all__ = ["Turn", "lineage", "record", "turn"]


@dataclass(frozen=True, kw_only=True)
class LineageAttempts:
    """The value in the ledger."""

    cell: str
    """CHIP/MODEL."""
    benchmark: str
    """The name in matrix.yaml."""
    attempts: tuple[Attempt, ...]
    """Oldest first."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The place of an evaluation among the attempts of its lineage."""

    lineage: str
    """The lineage's key (hex)."""
    earlier: tuple[Attempt, ...]
    """Its attempts before this one, oldest first."""
    number: int
    """The attempt that this one repeats, or its own number."""
    judged: str = ""
    """The digest of the design and the answers."""

    @property
    def new(self) -> bool:
        """Whether this is none of the earlier attempts."""
        return self.number > len(self.earlier)

    @property
    def repeated(self) -> bool:
        """Whether the answers are those of the earlier attempt `number`."""
        return not self.new and self.earlier[self.number - 1].judged == self.judged

    @property
    def level(self) -> float:
        """The one-sided level of PASS."""
        return level(self.number)

    def next(self) -> Turn:
        """The place after this one."""
        return replace(self, number=self.number + 1)

    def of(self, judged: str) -> Turn:
        """The place of an evaluation whose answers do not depend on its level."""
        numbers = [attempt.number for attempt in self.earlier if attempt.judged == judged]
        return replace(self, judged=judged, number=numbers[0] if numbers else len(self.earlier) + 1)


def lineage(job: Job, weights: str, spec: EvalSpec) -> str:
    """The key (hex) of the lineage, for weights with this digest."""
    cell, lock = job.cell, job.lock
    base = lock.chips.get(cell.chip_name)
    conditions = {name: value for name, value in spec.conditions.items() if name not in ("prompts", "repeats")}
    return fingerprint(
        {
            "attempts": cell.id,
            "weights": weights,
            "stack": cell.stack,
            "engine": cell.model.serve.engine,
            "base image": (base and base.digest) or cell.chip.base,
            "packages": lock.wheels.get(cell.wheels_entry),
            "components": cell.chip.components,
            "baseline": cell.baseline,
            "shots": spec.shots,
            **conditions,
        }
    )


def turn(job: Job, context: Context, spec: EvalSpec) -> Turn:
    """The first place that an evaluation may have in its lineage."""
    key = lineage(job, context.result(results.WEIGHTS).digest, spec)
    try:
        known = context.shared.recall(key, LineageAttempts)
    except msgspec.ValidationError as error:
        context.progress.note(f"the earlier attempts at {spec.benchmark} cannot be read and do not count: {error}")
        known = None
    return Turn(lineage=key, earlier=() if known is None else known.attempts, number=1)


def record(context: Context, cell: str, benchmark: str, turn: Turn, attempt: Attempt) -> tuple[Attempt, ...]:
    """All attempts of the lineage, after storing this one if it is new."""
    if not turn.new:
        return turn.earlier
    every = (*turn.earlier, attempt)
    context.shared.remember(turn.lineage, LineageAttempts(cell=cell, benchmark=benchmark, attempts=every))
    return every
