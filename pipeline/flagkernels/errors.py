"""Everything that can stop flagkernels, with the exit codes of the host side.

KernelsError            1   unexpected; also the base of all below
├── InputError          2   an argument, a config or a name that cannot be used
│   └── BudgetTooSmall  2   the time given does not suffice for one candidate
└── EnvironmentFault    6   this machine lacks something
    ├── BundleMismatch  6   the bundle was made for another chip, driver, Triton or FlagGems
    ├── BundleCorrupt   6   a file of the bundle is missing or is not what was bundled
    ├── DatabaseCorrupt 6   truncated, or no SQLite database at all
    ├── DatabaseLocked  6   another process holds it longer than the busy timeout
    └── NoSpace         6   the disk is full

`str(error)` says what failed, `why` why, `hint` what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BudgetTooSmall",
    "BundleCorrupt",
    "BundleMismatch",
    "DatabaseCorrupt",
    "DatabaseLocked",
    "EnvironmentFault",
    "InputError",
    "KernelsError",
    "NoSpace",
    "did_you_mean",
]


class KernelsError(Exception):
    exit_code = 1

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.hint = what, why, hint

    def __str__(self) -> str:
        return "\n  ".join(part for part in (self.what, self.why, self.hint and f"next: {self.hint}") if part)


class InputError(KernelsError):
    exit_code = 2


class BudgetTooSmall(InputError):
    pass


class EnvironmentFault(KernelsError):
    exit_code = 6


class BundleMismatch(EnvironmentFault):
    pass


class BundleCorrupt(EnvironmentFault):
    pass


class DatabaseCorrupt(EnvironmentFault):
    pass


class DatabaseLocked(EnvironmentFault):
    pass


class NoSpace(EnvironmentFault):
    pass


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint with the nearest known names, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"did you mean {' or '.join(near)}?" if near else ""
