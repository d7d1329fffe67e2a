"""What a watch found of published releases: what is no longer as it was published. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import msgspec

WATCH = "watch"
"""The stage name of a ledger entry whose result is a Rot."""


class State(StrEnum):
    """The result of one check of a watch."""

    HOLDS = "holds"
    ROTTEN = "rotten"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of one place of a release. A release has each check of a place once."""

    check: str
    """The kind: image, tag, latest, attached, signature, copy, card, weights, link."""
    place: str
    """Where: a repository, a page or a folder."""
    state: State
    """The result."""
    what: str
    """What holds, what does not, or why it was not checked."""
    why: str = ""
    """The cause."""
    hint: str = ""
    """What to do."""
    silent: bool = False
    """Of a check that was not made: whether it should have been, but the other side gave no answer that counts."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is no longer as it was published."""

    check: str
    """The kind of the check."""
    place: str
    """Where."""
    what: str
    """What does not hold."""
    why: str = ""
    """The cause."""
    hint: str = ""
    """What to do."""
    since: str = ""
    """When a watch first found it (UTC, ISO 8601)."""

    @property
    def line(self) -> str:
        """It in one line."""
        return f"{self.what}: {self.why}" if self.why else self.what


@dataclass(frozen=True, kw_only=True)
class Rot:
    """All findings about one release of a cell, at one time."""

    tag: str
    """The release's own tag."""
    image: str
    """REPOSITORY@DIGEST."""
    at: str
    """ISO 8601, UTC."""
    findings: tuple[Finding, ...] = ()
    """Empty if everything holds again."""


def parse(result: object) -> Rot | None:
    """The Rot of a ledger entry's result; None if another version wrote it."""
    try:
        return msgspec.convert(result, Rot)
    except msgspec.ValidationError:
        return None


def standing(rots: Iterable[Rot | None]) -> Mapping[str, Rot]:
    """What was found last of each release of a cell, given oldest first, by tag; without those that hold."""
    newest = {rot.tag: rot for rot in rots if rot is not None}
    return {tag: rot for tag, rot in newest.items() if rot.findings}


def found(checks: Collection[Check], before: Iterable[Finding], at: str) -> tuple[Finding, ...]:
    """The findings after these checks, which were made at a time (`at`).

    A check that was not made says nothing, and neither does a place that did not answer: what was found there before
    stands until somebody has looked again.
    """
    earlier = {(each.check, each.place): each for each in before}
    made = {(each.check, each.place): each for each in checks}
    silent = {each.place for each in checks if each.silent}
    found = [_finding(each, earlier.get(name), at) for name, each in made.items() if each.state is State.ROTTEN]
    return (*found, *(each for name, each in earlier.items() if _stands(made.get(name), each.place in silent)))


def _finding(check: Check, known: Finding | None, at: str) -> Finding:
    return Finding(
        check=check.check,
        place=check.place,
        what=check.what,
        why=check.why,
        hint=check.hint,
        since=at if known is None else known.since,
    )


def _stands(check: Check | None, silent: bool) -> bool:
    """Whether an earlier finding stands, by the check of now, if there is one, and whether its place was silent."""
    return silent if check is None else check.state is State.NOT_CHECKED


def changed(before: Sequence[Finding], after: Sequence[Finding]) -> bool:
    """Whether `after` says something else than `before`, in whatever order."""
    return {replace(each, hint="") for each in before} != {replace(each, hint="") for each in after}


def changes(rots: Iterable[Rot | None]) -> Iterator[tuple[Rot, tuple[Finding, ...], tuple[Finding, ...]]]:
    """Each Rot of a cell, oldest first, with what is new in it and what holds again since the one before it of the same
    release."""
    before: dict[str, tuple[Finding, ...]] = {}
    for rot in rots:
        if rot is None:
            continue
        earlier = before.get(rot.tag, ())
        names = {(each.check, each.place) for each in rot.findings}
        known = {(each.check, each.place) for each in earlier}
        new = tuple(each for each in rot.findings if (each.check, each.place) not in known)
        yield rot, new, tuple(each for each in earlier if (each.check, each.place) not in names)
        before[rot.tag] = rot.findings
