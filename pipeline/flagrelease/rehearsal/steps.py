"""Go through the parts of a rehearsal: one that fails is part of the report, and those that do not need it go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flagrelease.errors import EnvironmentFault, FlagreleaseError, HubUnavailable, RegistryUnavailable, crash_report
from flagrelease.ports.clock import Clock
from flagrelease.ports.progress import Progress
from flagrelease.rehearsal.report import Exercised, Failed, LeftOut
from flagrelease.run.board import Board
from flagrelease.run.outcome import Outcome
from flagrelease.store.files import machine_fault
from flagrelease.store.ledger import Failure, Spent

T = TypeVar("T")

_NO_ANSWER = (HubUnavailable, RegistryUnavailable)
"""These say something of this machine's network, not of the release."""


class Stopped(Exception):
    """A part failed that all later ones need."""


class Steps:
    """The parts of one cell's rehearsal, and what is known of them so far."""

    def __init__(self, cell: str, board: Board, clock: Clock) -> None:
        self.cell = cell
        self.exercised: list[Exercised] = []
        self.left_out: list[LeftOut] = []
        self.failed: list[Failed] = []
        self._board = board
        self._clock = clock

    def progress(self, part: str) -> Progress:
        """The line of a part."""
        return self._board.progress(self.cell, part)

    def leave_out(self, *omitted: LeftOut) -> None:
        """Note what the rehearsal does in another way, or not at all."""
        self.left_out += [one for one in omitted if one not in self.left_out]

    def fail(self, part: str, error: FlagreleaseError, *, here: bool | None = None) -> None:
        """Note an error. By default those of the environment are this machine's; who does not answer from here may
        answer on the chip's host."""
        if isinstance(error, _NO_ANSWER):
            self.leave_out(LeftOut(part=part, what=error.what, why=error.why or "nobody answers from this machine"))
            return
        self.failed.append(
            Failed(
                part=part,
                here=isinstance(error, EnvironmentFault) if here is None else here,
                why=error.line(),
                hint=error.hint,
                code=error.exit_code,
                detail=error.detail,
            )
        )

    def take(self, part: str, doing: str, work: Callable[[], tuple[T, str]]) -> T | None:
        """Do a part: `work` returns its result and what was observed. None if it failed, which is then noted."""
        self._board.begin(self.cell, part, doing)
        start = self._clock.monotonic()
        try:
            result, what = work()
        except FlagreleaseError as error:
            self._ended_red(part, error, start)
            return None
        except Exception as error:
            why, detail = f"{type(error).__name__}: {error}", crash_report(error)
            wrapped = FlagreleaseError(f"{part} failed unexpectedly", why=why, detail=detail)
            self._ended_red(part, machine_fault(error) or wrapped, start)
            return None
        seconds = self._clock.monotonic() - start
        if what:
            self.exercised.append(Exercised(part=part, what=what, seconds=round(seconds, 1)))
        outcome = Outcome(cell=self.cell, stage=part, status="done", reason=what, spent=Spent(seconds=seconds))
        self._board.settle(outcome)
        return result

    def need(self, part: str, doing: str, work: Callable[[], tuple[T, str]]) -> T:
        """Do a part that all later ones need. Raises Stopped if it failed."""
        result = self.take(part, doing, work)
        if result is None:
            raise Stopped
        return result

    def _ended_red(self, part: str, error: FlagreleaseError, start: float) -> None:
        self.fail(part, error)
        failure = Failure(kind=type(error).__name__, code=error.exit_code, what=error.what, why=error.why)
        spent = Spent(seconds=self._clock.monotonic() - start)
        outcome = Outcome(cell=self.cell, stage=part, status="failed", reason=error.line(), spent=spent, error=failure)
        self._board.settle(outcome)
