"""matrix.lock: pinned versions of all movable inputs. A run reads it; `flagrelease lock` updates it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from flagrelease.errors import ConfigError
from flagrelease.redact import redact
from flagrelease.store.files import write_atomic

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LockedFile:
    """One file of a hub listing."""

    path: str
    """Relative to the model folder."""
    size: int
    """Bytes."""
    sha256: str
    """64 hex digits."""


def set_digest(files: Iterable[LockedFile]) -> str:
    """sha256:… of the lines `SHA256  PATH\\n` sorted by path, as `sha256sum` prints them."""
    lines = "".join(f"{file.sha256}  {file.path}\n" for file in sorted(files, key=lambda file: file.path))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


@dataclass(frozen=True, kw_only=True)
class LockedModel:
    """A model source at one revision."""

    source: str
    """As in matrix.yaml."""
    revision: str
    """A commit or version."""
    files: tuple[LockedFile, ...]
    """The files of the source."""
    digest: str
    """The `set_digest` of the files."""
    archive: LockedFile | None = None
    """The distribution that contains a pypi:// member."""
    unverified: tuple[str, ...] = ()
    """Paths of files without a sha256 in the hub's listing; theirs is that of the first download."""


@dataclass(frozen=True, kw_only=True)
class LockedData:
    """The data file of a benchmark."""

    source: str
    """As in matrix.yaml."""
    rows: int
    """Rows of the file."""
    file: LockedFile
    """The file that is read."""
    archive: LockedFile | None = None
    """The archive that contains it."""
    revision: str = ""
    """A commit; empty if the source has none."""


@dataclass(frozen=True, kw_only=True)
class Brought:
    """A component that a base image brings."""

    version: str
    """As its metadata state it; empty if they state none."""
    source: str = ""
    """Where it was installed from, with the commit; empty for a published package."""
    place: str = ""
    """The folder in the image that it is imported from."""


@dataclass(frozen=True, kw_only=True)
class LockedChip:
    """The base image of a chip."""

    base: str
    """Its reference in matrix.yaml."""
    digest: str = ""
    """sha256:… of its manifest; empty if the image is built locally."""
    why: str = ""
    """Why there is no digest."""
    components: Mapping[str, Brought] = field(default_factory=dict)
    """What it brings, by component; empty if it was not on the machine that locked it, or nothing of it is expected."""


@dataclass(frozen=True, kw_only=True)
class LockedWheels:
    """The Python packages of one image, complete, so that pip does not resolve anything."""

    inputs: tuple[str, ...]
    """The requirements that were resolved."""
    requirements: tuple[str, ...]
    """Lines `name==version --hash=sha256:…`."""


@dataclass(frozen=True, kw_only=True)
class Lock:
    """The content of matrix.lock."""

    version: int = 1
    """Of the format."""
    models: Mapping[str, LockedModel] = field(default_factory=dict)
    """By name in matrix.yaml."""
    chips: Mapping[str, LockedChip] = field(default_factory=dict)
    """By name in matrix.yaml."""
    wheels: Mapping[str, LockedWheels] = field(default_factory=dict)
    """By CHIP-ENGINE."""
    benchmarks: Mapping[str, LockedData] = field(default_factory=dict)
    """By name in matrix.yaml."""
    unresolved: Mapping[str, str] = field(default_factory=dict)
    """By KIND.NAME of an entry that could not be pinned, the reason."""

    def require(self, kind: str, name: str) -> None:
        """Raise ConfigError if `kind` (models, wheels, …) has no entry `name`."""
        if name not in getattr(self, kind):
            why = self.unresolved.get(f"{kind}.{name}", "matrix.lock has no entry")
            hint = "run `flagrelease lock`"
            if kind == "wheels" and f"{kind}.{name}" in self.unresolved:
                hint = f"check the versions under `components` in matrix.yaml, then {hint}"
            raise ConfigError(f"{kind}.{name} is not locked", why=why, hint=hint)


def unverified(source: str, paths: Iterable[str]) -> ConfigError:
    """The refusal of files that a matrix does not trust on first use."""
    return ConfigError(
        f"{source} has files that nobody vouches for",
        why=f"the hub lists no checksum of {', '.join(paths)}, and defaults.unverified_files is `refuse`",
        hint="take a source whose hub lists checksums, or set it to `trust`: the first download is then pinned",
    )


class DamagedLock(ConfigError):
    """matrix.lock is not a lock, such as after a merge conflict."""


def load(path: Path) -> Lock:
    """Read matrix.lock; a missing file is an empty lock. Raises DamagedLock, and ConfigError if it cannot be read or is
    of a newer version."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return Lock()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read", why=error.strerror or str(error), hint="it must be a readable file"
        ) from None
    try:
        lock = msgspec.json.decode(raw, type=Lock)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        hint = "restore it, or run `flagrelease lock`, which pins everything again"
        raise DamagedLock(f"{path} is damaged", why=str(error), hint=hint) from None
    if lock.version != 1:
        raise ConfigError(f"{path} has version {lock.version}", why="written by a newer flagrelease", hint="upgrade")
    return lock


def dumps(lock: Lock) -> bytes:
    """The lock as diff-friendly JSON: sorted, one value on each line, without secrets in its reasons."""
    return msgspec.json.format(msgspec.json.encode(redacted(lock), order="sorted"), indent=2) + b"\n"


def redacted(lock: Lock) -> Lock:
    """The lock with its texts redacted; what is compared or fetched stays as it is."""
    return replace(
        lock,
        chips={name: replace(chip, why=redact(chip.why)) for name, chip in lock.chips.items()},
        unresolved={name: redact(why) for name, why in lock.unresolved.items()},
    )


def save(path: Path, lock: Lock) -> None:
    write_atomic(path, dumps(lock))


def changes(old: Lock, new: Lock) -> tuple[str, ...]:
    """The changes between two locks, one line each: `+` added, `-` removed, `~` changed."""
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
                lines.append(f"~ {kind}.{name}  {_difference(before[name], after[name])}")
    return tuple(lines)


def _difference(before: object, after: object) -> str:
    if isinstance(before, LockedWheels) and isinstance(after, LockedWheels):
        return _package_changes(before, after)
    if isinstance(before, LockedChip) and isinstance(after, LockedChip) and before.base != after.base:
        return f"{before.base} {_brief(before)} → {after.base} {_brief(after)}"
    return f"{_brief(before)} → {_brief(after)}"


def _package_changes(before: LockedWheels, after: LockedWheels) -> str:
    """The packages that changed, by name and version."""
    old, new = ({line.split()[0]: line for line in wheels.requirements} for wheels in (before, after))
    was, now = (dict(pinned.partition("==")[::2] for pinned in entries) for entries in (old, new))
    changed = []
    for name in sorted(was.keys() | now.keys()):
        if name not in now:
            changed.append(f"- {name} {was[name]}")
        elif name not in was:
            changed.append(f"+ {name} {now[name]}")
        elif was[name] != now[name]:
            changed.append(f"{name} {was[name]} → {now[name]}")
        elif old[f"{name}=={was[name]}"] != new[f"{name}=={now[name]}"]:
            changed.append(f"{name} {now[name]} with other files")
    return ", ".join(changed) or "the same packages for other requirements"


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
    """`old` updated with the entries of `new`; other entries stay unchanged."""
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
