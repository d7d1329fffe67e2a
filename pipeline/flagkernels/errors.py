"""Errors of all steps, one exit code each (the same numbers as flagrelease's).

KernelsError              1   unexpected; base class of all others
├── UsageError            2   the command line or an input file is wrong
│   └── BudgetTooSmall    2   the time budget is too small for one candidate
├── NothingToDo           3   no operator is left to work on
├── Refused               4   a negative verdict
└── ChipFault             6   the machine lacks something: torch, Triton, FlagGems, memory, disk, the chip itself
    ├── BundleMismatch    6   the bundle was made for another chip, driver, Triton or FlagGems
    ├── BundleCorrupt     6   a file of the bundle is missing or was changed
    ├── DatabaseCorrupt   6   truncated, or not an SQLite database
    ├── DatabaseLocked    6   locked by another process for longer than the busy timeout
    └── NoSpace           6   the disk is full
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BudgetTooSmall",
    "BundleCorrupt",
    "BundleMismatch",
    "ChipFault",
    "DatabaseCorrupt",
    "DatabaseLocked",
    "KernelsError",
    "NoSpace",
    "NothingToDo",
    "Refused",
    "UsageError",
    "did_you_mean",
]


class KernelsError(Exception):
    """Base class of errors shown to the user: what failed, why, and what to do next."""

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.hint:
            lines.append(f"  next: {self.hint}")
        return "\n".join(lines)


class UsageError(KernelsError):
    exit_code = 2


class BudgetTooSmall(UsageError):
    pass


class NothingToDo(KernelsError):
    exit_code = 3


class Refused(KernelsError):
    exit_code = 4


class ChipFault(KernelsError):
    exit_code = 6


class BundleMismatch(ChipFault):
    pass


class BundleCorrupt(ChipFault):
    pass


class DatabaseCorrupt(ChipFault):
    pass


class DatabaseLocked(ChipFault):
    pass


class NoSpace(ChipFault):
    pass


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'mul', 'mul_'?`, or an empty string if no name is similar."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"did you mean {', '.join(repr(name) for name in near)}?" if near else ""
