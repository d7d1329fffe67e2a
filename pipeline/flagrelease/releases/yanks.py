"""Yanked releases: withdrawn by a person, for a reason. Nothing that is published is changed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

YANK = "yank"
"""The stage name of a ledger entry whose result is a Yank."""


@dataclass(frozen=True, kw_only=True)
class Yank:
    """A statement about one release of a cell."""

    tag: str
    """The release's own tag."""
    image: str
    """REPOSITORY@DIGEST."""
    reason: str
    """Why, in the user's words."""
    by: str
    """The user's name."""
    at: str
    """ISO 8601, UTC."""
    undone: bool = False
    """Whether it takes an earlier yank of the release back."""


def parse(result: object) -> Yank | None:
    """The yank of a ledger entry's result; None if another version wrote it."""
    try:
        return msgspec.convert(result, Yank)
    except msgspec.ValidationError:
        return None


def standing(yanks: Iterable[Yank | None]) -> Mapping[str, Yank]:
    """The yanks of a cell, given oldest first, that were not taken back, by tag."""
    newest = {yank.tag: yank for yank in yanks if yank is not None}
    return {tag: yank for tag, yank in newest.items() if not yank.undone}
