"""A defect that the lint of a card finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much a defect matters to a reader of the card."""

    ERROR = "error"
    """A command fails, or a statement is wrong or missing."""
    WARNING = "warning"
    """It reads badly, or hubs show it badly."""


@dataclass(frozen=True)
class Finding:
    """A defect of the card."""

    line: int
    """Line of the card, from 1."""
    text: str
    """What is wrong."""
    severity: Severity = Severity.ERROR
    """How much it matters."""
    check: str = ""
    """Name of the check that found it; `lint` sets it."""


def warning(line: int, text: str) -> Finding:
    return Finding(line, text, Severity.WARNING)
