"""What a verification found, and the exit code that follows from it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from flagrelease.errors import GateFailed, Inconclusive

__all__ = ["Check", "State", "agrees", "differs", "exit_code", "not_checked"]


class State(StrEnum):
    """The result of one check."""

    AGREES = "agrees"
    DIFFERS = "differs"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of a verification."""

    check: str
    """The kind: files, record, card, answers, score, verdict, tokens, speed, image."""
    subject: str
    """What was checked."""
    state: State
    """The result."""
    detail: str
    """What agrees, what differs, or why it was not checked."""
    decisive: bool = False
    """Whether the release cannot count as verified without this check."""


def agrees(check: str, subject: str, detail: str) -> Check:
    return Check(check=check, subject=subject, state=State.AGREES, detail=detail)


def differs(check: str, subject: str, detail: str) -> Check:
    return Check(check=check, subject=subject, state=State.DIFFERS, detail=detail)


def not_checked(check: str, subject: str, why: str, *, decisive: bool = False) -> Check:
    return Check(check=check, subject=subject, state=State.NOT_CHECKED, detail=why, decisive=decisive)


def exit_code(checks: Iterable[Check]) -> int:
    """0 if nothing differs and the verdicts were computed again, 4 if something differs, 5 if nothing differs but a
    check is missing without which the release is not verified."""
    every = tuple(checks)
    if any(check.state is State.DIFFERS for check in every):
        return GateFailed.exit_code
    missing = any(check.state is State.NOT_CHECKED and check.decisive for check in every)
    return Inconclusive.exit_code if missing or not every else 0
