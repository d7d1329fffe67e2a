"""index.json of the releases folder: the published releases, in order of publication."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from flagrelease.contract.handles import VerdictName
from flagrelease.errors import ConfigError
from flagrelease.store import locks
from flagrelease.store.files import write_atomic
from flagrelease.store.workspace import Workspace

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Release:
    """One published release."""

    cell: str
    tag: str
    image: str
    verdict: VerdictName
    record_sha256: str
    """sha256 (hex) of release.json."""
    folder: str
    """Relative to the releases folder."""
    targets: Mapping[str, str] = field(default_factory=dict)
    """Where it is at the targets of the matrix that have it, by target."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """The contents of index.json."""

    version: int = VERSION
    releases: tuple[Release, ...] = ()
    """Oldest first."""


def load(workspace: Workspace) -> Index:
    """Read the index; a missing file is an empty index. Raises ConfigError if it is damaged or of a newer version."""
    path = workspace.releases / "index.json"
    try:
        index = msgspec.json.decode(path.read_bytes(), type=Index)
    except FileNotFoundError:
        return Index()
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is damaged", why=str(error), hint="restore it, or delete it and publish again"
        ) from None
    if index.version > VERSION:
        raise ConfigError(f"{path} has version {index.version}", why="written by a newer flagrelease", hint="upgrade")
    return index


def add(workspace: Workspace, release: Release, run_id: str, sleep: Callable[[float], None]) -> None:
    """Make `release` the newest of its cell, instead of its earlier entry, the targets of which it keeps. Idempotent,
    and safe for concurrent runs."""
    with locks.wait_for(workspace.locks / "releases.lock", run_id, lambda _holder: None, sleep):
        index = load(workspace)
        earlier = [other for other in index.releases if (other.cell, other.tag) == (release.cell, release.tag)]
        for other in earlier:
            release = replace(release, targets={**other.targets, **release.targets})
        if release in index.releases and _newest(index, release.cell) == release:
            return
        others = tuple(other for other in index.releases if other not in earlier)
        updated = Index(releases=(*others, release))
        data = msgspec.json.format(msgspec.json.encode(updated, order="sorted"), indent=2) + b"\n"
        write_atomic(workspace.releases / "index.json", data)


def _newest(index: Index, cell: str) -> Release | None:
    return next((release for release in reversed(index.releases) if release.cell == cell), None)
