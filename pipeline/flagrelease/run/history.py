"""Look up the results of earlier runs, for planning."""

from __future__ import annotations

import msgspec

from flagrelease.contract.context import Look
from flagrelease.contract.stage import AnyStage
from flagrelease.store.ledger import Entry, Ledger, evidence_of
from flagrelease.store.parts import Keep


class History:
    """Implements plan.Known on the ledger and the workspace."""

    def __init__(self, ledger: Ledger, look: Look) -> None:
        self._ledger = ledger
        self._look = look

    def done(self, cell: str, stage: str, key: str) -> Entry | None:
        return self._ledger.last_done(cell, stage, key)

    def last(self, cell: str, stage: str) -> Entry | None:
        return self._ledger.last(cell, stage)

    def kept(self, cell: str, stage: str, key: str) -> Keep | None:
        return self._ledger.kept(cell, stage, key)

    def lost(self, stage: AnyStage, entry: Entry) -> str:
        try:
            result = stage.result.decode(entry.result)
        except msgspec.ValidationError:
            return "its result was written by another version"
        missing = self._look.evidence.missing(evidence_of(result))
        if missing:
            return f"its evidence {missing[0].name} is missing"
        return stage.intact(result, self._look)
