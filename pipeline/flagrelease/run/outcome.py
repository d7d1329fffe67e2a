"""The outcome of one stage of one cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from flagrelease.store.ledger import Failure, Spent

Status = Literal["done", "reused", "skipped", "failed", "not run", "interrupted", "remedied"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one stage of one cell ended."""

    cell: str
    """CHIP/MODEL."""
    stage: str
    status: Status
    """`not run`: an earlier stage failed, or the run was stopped before this one began. `remedied`: the stage failed,
    and the cell went on without the operators at fault."""
    reason: str
    spent: Spent = field(default_factory=lambda: Spent(seconds=0.0))
    error: Failure | None = None
    verdict: str = ""
    """PASS, FAIL or INCONCLUSIVE; empty for a stage that judges nothing."""

    @property
    def red(self) -> bool:
        return self.status in ("failed", "not run", "interrupted")
