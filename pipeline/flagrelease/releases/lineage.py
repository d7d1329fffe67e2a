"""Lineage: which release a new one replaces, and why. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """A release's place among those of its cell."""

    revision: int
    """Counted from 1; each release of the cell has the next number."""
    reason: str
    """Why it was made."""
    parent: str = ""
    """The tag of the release before it; empty for the first."""
    parent_image: str = ""
    """REPOSITORY@DIGEST of that release."""
    parent_yanked: str = ""
    """Why that release had been yanked; empty if it had not been."""


@dataclass(frozen=True, kw_only=True)
class Previous:
    """The newest published release of a cell, before a new one is made."""

    tag: str
    """Its own tag."""
    image: str
    """REPOSITORY@DIGEST."""
    yanked: str = ""
    """Why it was yanked; empty if it was not."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """The keys of the stages whose results it records, by stage; empty if its record is lost."""
    rendered_by: str = ""
    """The version of the code that rendered its card."""
    lineage: Lineage | None = None
    """Its own lineage; none in records of versions that had none."""


def lineage(previous: Previous | None, keys: Mapping[str, str], rendered_by: str, reason: str = "") -> Lineage:
    """The lineage of a release made from the stages with these `keys`.

    The same release made once more gets the lineage it had, so that its record, and with it its tag, stays the same.
    """
    if previous is None:
        return Lineage(revision=1, reason=reason or "first release")
    if previous.lineage is not None and (previous.keys, previous.rendered_by) == (dict(keys), rendered_by):
        return previous.lineage
    revision = 1 if previous.lineage is None else previous.lineage.revision
    return Lineage(
        revision=revision + 1,
        reason=reason or _why(previous, keys),
        parent=previous.tag,
        parent_image=previous.image,
        parent_yanked=previous.yanked,
    )


def _why(previous: Previous, keys: Mapping[str, str]) -> str:
    """What differs, in words. The first stage with another key is a cause, those that read its result may not be."""
    changed = [name for name, key in keys.items() if previous.keys.get(name) != key]
    if not previous.keys:
        return "the record of the release before it is not available"
    if not changed:
        return "the card is written by another version"
    later = len(changed) - 1
    return f"{changed[0]} changed" + (f", and {later} later stage{'s' * (later > 1)} with it" if later else "")
