"""The state of a cell, from the newest ledger entries of its stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flagrelease.contract.results import IMAGE, PUBLISH, Publish
from flagrelease.errors import Inconclusive
from flagrelease.releases.rot import Rot
from flagrelease.releases.states import without_cell
from flagrelease.releases.yanks import Yank
from flagrelease.stages import STAGES
from flagrelease.store.ledger import Entry, process_lives

NO_YANKS: Mapping[str, Yank] = {}
NO_ROT: Mapping[str, Rot] = {}


@dataclass(frozen=True, kw_only=True)
class Status:
    """The state of one cell."""

    cell: str
    state: str
    """One of STATES."""
    stage: str = ""
    """The stage that failed, was interrupted or is running; else the last one that has run."""
    at: str = ""
    """Time of that stage's newest ledger entry (UTC, ISO 8601)."""
    digest: str = ""
    """The digest of the cell's image; empty if it has none."""
    reason: str = ""
    hint: str = ""
    """How to unblock a cell that is `blocked`, or to mend one that is `rotten`; empty for others."""


def status(
    cell: str,
    latest: Mapping[str, Entry],
    *,
    excluded: str = "",
    yanks: Mapping[str, Yank] = NO_YANKS,
    rot: Mapping[str, Rot] = NO_ROT,
) -> Status:
    """A cell's state from the newest entry of each of its stages; `yanks` and `rot` are by tag. Pure, except for
    checking whether a run is alive."""
    if excluded:
        return Status(cell=cell, state="excluded", reason=excluded)
    if not latest:
        return Status(cell=cell, state="new", reason="never run")
    image = IMAGE.of(latest.get(IMAGE.stage))
    digest = "" if image is None else image.digest
    reached = [stage.name for stage in STAGES if stage.name in latest][-1]
    for stage in STAGES:
        entry = latest.get(stage.name)
        if entry is None or entry.state == "done":
            continue
        state = {"failed": "red", "interrupted": "interrupted", "running": "interrupted"}[entry.state]
        reason = without_cell(cell, entry.error.what) if entry.error else "stopped before it finished; run it again"
        if entry.error is not None and entry.error.code == Inconclusive.exit_code:
            state = "inconclusive"
        if entry.state == "running" and process_lives(entry.process):
            state, reason = "running", f"run {entry.run}"
        return Status(cell=cell, state=state, stage=stage.name, at=entry.at, digest=digest, reason=reason)
    published = PUBLISH.of(latest.get(PUBLISH.stage))
    if published is None or not published.tags:
        return Status(cell=cell, state="partial", stage=reached, at=latest[reached].at, digest=digest)
    if yank := yanks.get(own_tag(published)):
        return Status(cell=cell, state="yanked", stage=reached, at=yank.at, digest=digest, reason=yank.reason)
    if found := rot.get(own_tag(published)):
        first = found.findings[0]
        reason = first.line + (f"; and {len(found.findings) - 1} more" if found.findings[1:] else "")
        return Status(
            cell=cell, state="rotten", stage=reached, at=found.at, digest=digest, reason=reason, hint=first.hint
        )
    return Status(cell=cell, state="released", stage=reached, at=latest[reached].at, digest=digest)


def own_tag(published: Publish) -> str:
    """The tag of a published release, without its repository."""
    return published.tags[0].rpartition(":")[2]


def image_of(published: Publish) -> str:
    """REPOSITORY@DIGEST of a published release."""
    return f"{published.tags[0].rpartition(':')[0]}@{published.digest}"
