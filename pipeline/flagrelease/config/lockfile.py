"""matrix.lock: what everything that can move resolved to. A run uses it; `flagrelease lock` moves it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from flagrelease.errors import ConfigError
from flagrelease.store.files import write_atomic

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LockedFile:
    """One file of a hub listing: its path relative to the model folder, bytes, sha256 (hex)."""

    path: str
    size: int
    sha256: str


def set_digest(files: Iterable[LockedFile]) -> str:
    """`sha256:` of the lines `SHA256  PATH\\n`, sorted by path: what `sha256sum` prints of the sorted files, hashed."""
    lines = "".join(f"{file.sha256}  {file.path}\n" for file in sorted(files, key=lambda file: file.path))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


@dataclass(frozen=True, kw_only=True)
class LockedModel:
    """A model source at one revision. `archive` is the distribution that a pypi:// member is taken from;
    `digest` is `set_digest` of the files; `unverified` names files for which the hub lists no sha256, so that
    theirs is that of the first download."""

    source: str
    revision: str
    files: tuple[LockedFile, ...]
    digest: str
    archive: LockedFile | None = None
    unverified: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LockedData:
    """A benchmark's data file: rows and sha256 of the file that is read, and of the archive it comes from."""

    source: str
    rows: int
    file: LockedFile
    archive: LockedFile | None = None
    revision: str = ""


@dataclass(frozen=True, kw_only=True)
class LockedChip:
    """A chip's base image. `digest` is empty where the base is made on the spot; `why` says so."""

    base: str
    digest: str = ""
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class LockedWheels:
    """The Python packages of one image: `name==version --hash=sha256:…`, complete, so pip resolves nothing."""

    inputs: tuple[str, ...]
    requirements: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Lock:
    """All of matrix.lock. `unresolved` holds what could not be pinned, by name, with the reason."""

    version: int = 1
    models: Mapping[str, LockedModel] = field(default_factory=dict)
    chips: Mapping[str, LockedChip] = field(default_factory=dict)
    wheels: Mapping[str, LockedWheels] = field(default_factory=dict)
    benchmarks: Mapping[str, LockedData] = field(default_factory=dict)
    unresolved: Mapping[str, str] = field(default_factory=dict)

    def require(self, kind: str, name: str) -> None:
        """Raise ConfigError where `kind` (models, wheels, …) has no entry `name`."""
        if name not in getattr(self, kind):
            why = self.unresolved.get(f"{kind}.{name}", "matrix.lock has no entry")
            hint = "run `flagrelease lock`"
            if kind == "wheels" and f"{kind}.{name}" in self.unresolved:
                hint = f"check the versions under `components` in matrix.yaml, then {hint}"
            raise ConfigError(f"{kind}.{name} is not locked", why=why, hint=hint)


def load(path: Path) -> Lock:
    """Read matrix.lock; an absent file is an empty lock. Raises ConfigError."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return Lock()
    try:
        lock = msgspec.json.decode(raw, type=Lock)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is damaged", why=str(error), hint="restore it, or run `flagrelease lock`") from None
    if lock.version != 1:
        raise ConfigError(f"{path} has version {lock.version}", why="written by a newer flagrelease", hint="upgrade")
    return lock


def dumps(lock: Lock) -> bytes:
    """The lock as text that diffs well: sorted, one value a line."""
    return msgspec.json.format(msgspec.json.encode(lock, order="sorted"), indent=2) + b"\n"


def save(path: Path, lock: Lock) -> None:
    write_atomic(path, dumps(lock))


def changes(old: Lock, new: Lock) -> tuple[str, ...]:
    """What moving the lock changes, a line each: `+` added, `-` gone, `~` moved."""
    lines = []
    for kind in ("models", "chips", "wheels", "benchmarks", "unresolved"):
        before: Mapping[str, object] = getattr(old, kind)
        after: Mapping[str, object] = getattr(new, kind)
        for name in sorted(before.keys() | after.keys()):
            if name not in after:
                lines.append(f"- {kind}.{name}")
            elif name not in before:
                lines.append(f"+ {kind}.{name}  {_brief(after[name])}")
            elif before[name] != after[name]:
                lines.append(f"~ {kind}.{name}  {_brief(before[name])} → {_brief(after[name])}")
    return tuple(lines)


def _brief(value: object) -> str:
    match value:
        case LockedModel():
            return f"{value.revision} {value.digest[:19]}"
        case LockedChip():
            return value.digest[:19] or value.why
        case LockedWheels():
            return f"{len(value.requirements)} packages"
        case LockedData():
            return f"{value.rows} rows sha256:{value.file.sha256[:12]}"
        case _:
            return str(value)


def merged(old: Lock, new: Lock) -> Lock:
    """`new` laid over `old`: what was not asked for stays as it was."""
    unresolved = {**old.unresolved, **new.unresolved}
    for kind in ("models", "chips", "wheels", "benchmarks"):
        for name in getattr(new, kind):
            unresolved.pop(f"{kind}.{name}", None)
    return replace(
        new,
        models={**old.models, **new.models},
        chips={**old.chips, **new.chips},
        wheels={**old.wheels, **new.wheels},
        benchmarks={**old.benchmarks, **new.benchmarks},
        unresolved=unresolved,
    )
