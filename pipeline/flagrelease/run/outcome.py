"""How one stage of one cell ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from flagrelease.store.ledger import Failure, Spent

Status = Literal["done", "reused", "skipped", "failed", "blocked", "interrupted", "remedied"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one stage of one cell ended. `remedied`: it failed, and the cell went on without the cause."""

    cell: str
    stage: str
    status: Status
    reason: str
    spent: Spent = field(default_factory=lambda: Spent(seconds=0.0))
    error: Failure | None = None

    @property
    def red(self) -> bool:
        return self.status in ("failed", "blocked", "interrupted")
