"""index.json of the release folder: what was published, in the order in which it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from flagrelease.contract.handles import VerdictName
from flagrelease.errors import ConfigError
from flagrelease.store import locks
from flagrelease.store.files import write_atomic
from flagrelease.store.workspace import Workspace

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Release:
    """One published release. `folder` is relative to the releases folder."""

    cell: str
    tag: str
    image: str
    verdict: VerdictName
    record_sha256: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class Index:
    """`releases` has the newest last."""

    version: int = VERSION
    releases: tuple[Release, ...] = ()


def load(workspace: Workspace) -> Index:
    """The index; an absent file is an empty one. Raises ConfigError where it is damaged or newer than this program."""
    path = workspace.releases / "index.json"
    try:
        index = msgspec.json.decode(path.read_bytes(), type=Index)
    except FileNotFoundError:
        return Index()
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"{path} is damaged", why=str(error), hint="restore it, or remove it and publish again"
        ) from None
    if index.version > VERSION:
        raise ConfigError(f"{path} has version {index.version}", why="written by a newer flagrelease", hint="upgrade")
    return index


def add(workspace: Workspace, release: Release, run_id: str, sleep: Callable[[float], None]) -> None:
    """Make `release` the newest of its cell. Adding it again changes nothing; two runs may add at once."""
    with locks.wait_for(workspace.locks / "releases.lock", run_id, lambda _holder: None, sleep):
        index = load(workspace)
        if release in index.releases and _newest(index, release.cell) == release:
            return
        kept = tuple(one for one in index.releases if one != release)
        fresh = Index(releases=(*kept, release))
        data = msgspec.json.format(msgspec.json.encode(fresh, order="sorted"), indent=2) + b"\n"
        write_atomic(workspace.releases / "index.json", data)


def _newest(index: Index, cell: str) -> Release | None:
    return next((one for one in reversed(index.releases) if one.cell == cell), None)
