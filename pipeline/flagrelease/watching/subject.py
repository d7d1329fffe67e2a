"""A published release as it is watched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from flagrelease.config.lockfile import LockedFile
from flagrelease.config.targets import Target
from flagrelease.contract.results import Delivered
from flagrelease.errors import FlagreleaseError, HubUnavailable, RegistryDenied, RegistryUnavailable
from flagrelease.releases.lineage import Lineage
from flagrelease.releases.rot import Check, State

__all__ = ["Inspect", "Look", "Pins", "Step", "Subject", "Weights", "holds", "made", "not_checked", "rotten", "silent"]


class _Unpacked(msgspec.Struct, frozen=True):
    files: tuple[LockedFile, ...]


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """What a record says of the weights; other fields do not matter here."""

    source: str
    """As in matrix.yaml."""
    revision: str
    """The pinned revision."""
    files: tuple[LockedFile, ...]
    """The files that are served."""
    unpacked: _Unpacked | None = None
    """The fetched files, if `files` were converted from them."""

    @property
    def fetched(self) -> tuple[LockedFile, ...]:
        """The files as the source has them."""
        return self.files if self.unpacked is None else self.unpacked.files


class _Model(msgspec.Struct, frozen=True, kw_only=True):
    """What a record says of the model."""

    upstream: str
    """The repository that the card names."""


class Pins(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a record that a watch reads."""

    weights: Weights
    model: _Model
    lineage: Lineage | None = None
    """None in records of versions that had none, some of which attached nothing to an image."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One release."""

    cell: str
    """CHIP/MODEL."""
    tag: str
    """Its own tag."""
    repository: str
    """HOST/NAME in the registry of the releases."""
    digest: str
    """Of its image, sha256:…"""
    folder: Path
    """The release folder of the workspace, which may be missing."""
    pins: Pins | None = None
    """What its record says; none if the record is lost or of another version."""
    latest: str = ""
    """The digest that `latest` has to name; empty if this is not the newest release that may be used."""
    copies: tuple[Delivered, ...] = ()
    """Its copies at the targets of the matrix."""

    @property
    def image(self) -> str:
        """REPOSITORY@DIGEST."""
        return f"{self.repository}@{self.digest}"


@dataclass(frozen=True, kw_only=True)
class Look:
    """How thoroughly, and with what, a watch looks."""

    key: Path | None = None
    """The public key that has to have signed the releases."""
    deep: bool = False
    """Whether all bytes are read and hashed."""
    patience: float = 10.0
    """Seconds of silence, and of pauses between attempts, after which one request is given up."""


def holds(check: str, place: str, what: str) -> Check:
    return Check(check=check, place=place, state=State.HOLDS, what=what)


def rotten(check: str, place: str, what: str, *, why: str = "", hint: str) -> Check:
    return Check(check=check, place=place, state=State.ROTTEN, what=what, why=why, hint=hint)


def not_checked(check: str, place: str, what: str, *, hint: str = "") -> Check:
    """A check that this watch leaves out."""
    return Check(check=check, place=place, state=State.NOT_CHECKED, what=what, hint=hint)


def silent(check: str, place: str, why: str, *, hint: str = "") -> Check:
    """A check to which the other side gave no answer that counts."""
    return Check(check=check, place=place, state=State.NOT_CHECKED, what=why, hint=hint, silent=True)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One check that is still to be made. An error of the other side may be raised: it means that nothing is known."""

    check: str
    """Its kind."""
    make: Callable[[], Check] = field(repr=False)
    """Makes it."""
    decides: bool = False
    """Whether the later checks of the place say nothing if it does not hold."""


class Inspect(Protocol):
    """The checks of a copy at a target of one kind."""

    def __call__(self, subject: Subject, copy: Delivered, target: Target, look: Look) -> Sequence[Step]:
        """Raises ConfigError for settings that cannot be used."""
        ...


def made(check: str, place: str, steps: Callable[[], Sequence[Step]]) -> list[Check]:
    """The checks of one place, in order; `check` stands for all of them if the place cannot be opened. A place that did
    not answer is not asked again."""
    try:
        ordered = steps()
    except FlagreleaseError as error:
        return [silent(check, place, error.line(), hint=error.hint)]
    found: list[Check] = []
    why: FlagreleaseError | None = None
    for step in ordered:
        if why is None:
            try:
                found.append(step.make())
            except FlagreleaseError as error:
                why = error
        if why is not None:
            found.append(silent(step.check, place, why.line(), hint=why.hint))
            why = why if isinstance(why, _NO_ANSWER) else None
        elif step.decides and found[-1].state is State.ROTTEN:
            break
    return found


_NO_ANSWER = (RegistryUnavailable, RegistryDenied, HubUnavailable)
