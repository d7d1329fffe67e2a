"""The state of every cell of a matrix with its current release: `cells.json` of the index. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from flagrelease.errors import ConfigError
from flagrelease.releases.facts import Facts
from flagrelease.releases.rot import Rot

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Published:
    """A release that was published."""

    tag: str
    """Its own tag."""
    at: str = ""
    """When it was published (UTC, ISO 8601); empty if the ledger does not have it."""
    image: str = ""
    """REPOSITORY@DIGEST."""
    folder: str = ""
    """Relative to the workspace."""
    facts: Facts | None = None
    """Its record; none if that is lost or of a newer version."""
    yanked: str = ""
    """Why it was yanked; empty if it was not."""
    rot: Rot | None = None
    """What a watch found that is no longer as it was published; none if nothing is known."""


@dataclass(frozen=True, kw_only=True)
class CellState:
    """One cell."""

    cell: str
    """CHIP/MODEL."""
    state: str
    """As `flagrelease status` shows it."""
    reason: str = ""
    """The reason for the state, in one line."""
    stage: str = ""
    """The stage that the state is about."""
    at: str = ""
    """When the cell reached this state (UTC, ISO 8601)."""
    release: Published | None = None
    """The newest release."""

    @property
    def available(self) -> Published | None:
        """The newest release if it is not yanked."""
        return None if self.release is None or self.release.yanked else self.release


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The contents of cells.json."""

    cells: tuple[CellState, ...]
    """All cells, those that need somebody first."""
    version: int = VERSION
    """Of the format."""


def dumps(cells: Sequence[CellState]) -> bytes:
    """cells.json."""
    return msgspec.json.encode(Cells(cells=tuple(cells))) + b"\n"


def loads(raw: bytes, name: str) -> tuple[CellState, ...]:
    """Parse cells.json. Raises ConfigError if it is damaged or written by a newer version of flagrelease."""
    try:
        version = msgspec.json.decode(raw, type=_Versioned).version
        if version > VERSION:
            why = f"this program reads versions up to {VERSION}"
            raise ConfigError(f"{name} has version {version}", why=why, hint="upgrade flagrelease")
        return msgspec.json.decode(raw, type=Cells).cells
    except (ValueError, RecursionError) as error:
        hint = "give cells.json of an index, a ledger, a workspace or a release"
        raise ConfigError(f"{name} cannot be read", why=str(error), hint=hint) from None


class _Versioned(msgspec.Struct):
    version: int
