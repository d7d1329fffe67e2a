"""What a rehearsal exercised, what it left out and why, and what would fail on the chip. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from flagrelease.errors import worst


@dataclass(frozen=True, kw_only=True)
class Exercised:
    """A part that did what it does in a release."""

    part: str
    """The stage, or what precedes the stages."""
    what: str
    """What was observed."""
    seconds: float
    """How long it took."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Something that the rehearsal did in another way, or not at all."""

    part: str
    """The part that it belongs to."""
    what: str
    """What the release does, and what was done instead."""
    why: str
    """The reason."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A part that failed."""

    part: str
    """Its name."""
    here: bool
    """Whether this machine lacks something; otherwise it would fail on the chip as well."""
    why: str
    """What failed and why."""
    hint: str
    """What to do next."""
    code: int
    """The exit code of that error."""
    detail: str = ""
    """Longer material, such as the end of a log."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The rehearsal of one cell. It has no verdict: the weights are random, and the device is not the chip."""

    cell: str
    """CHIP/MODEL."""
    seconds: float
    """How long all of it took."""
    exercised: tuple[Exercised, ...]
    """What did what it does in a release."""
    left_out: tuple[LeftOut, ...]
    """What a release does beyond that."""
    failed: tuple[Failed, ...]
    """What would stop the release, or could not be rehearsed here."""
    folder: str
    """Where its card and its logs are."""

    @property
    def code(self) -> int:
        """The exit code: that of the most severe failure, 0 without one."""
        return worst(failure.code for failure in self.failed)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "exit_code": self.code}
