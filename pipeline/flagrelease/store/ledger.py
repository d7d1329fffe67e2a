"""The append-only ledger: one JSON line for each attempt at a stage, never rewritten."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from flagrelease.errors import ConfigError, EnvironmentFault
from flagrelease.redact import redact, secret_variables
from flagrelease.store.evidence import Evidence
from flagrelease.store.files import translate_disk_errors
from flagrelease.store.parts import Keep, Parts

State = Literal["running", "done", "failed", "interrupted"]

VERSION = 1
BASELINE = "baseline"
"""The stage name of what a run stores for other runs, such as a baseline evaluation."""
KEEP = "keep"
"""The stage name of a `flagrelease keep` entry: `result` is the Keep, `key` its `to_key`."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An error as it was shown, for `explain` to show again."""

    kind: str
    """The name of its class."""
    code: int
    """The exit code."""
    what: str
    """What failed, in one line."""
    why: str = ""
    """The cause."""
    hint: str = ""
    """What to do next."""
    detail: str = ""
    """Longer material, such as the last log lines."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """The cost of a stage."""

    seconds: float
    """Wall-clock time of the stage."""
    outside: float = 0.0
    """Seconds of it in download, build, push, server start and inference; the rest is the pipeline's own overhead."""
    moved: int = 0
    """Bytes transferred over the network."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One attempt at one stage of one cell."""

    at: str
    """ISO 8601, UTC."""
    run: str
    """The id of the run."""
    cell: str
    """CHIP/MODEL."""
    stage: str
    """The stage's name; `baseline` for an evaluation that cells share, `keep` for a result kept by a user."""
    state: State
    """How far the attempt got."""
    key: str
    """The fingerprint (hex) of the stage's inputs."""
    process: str
    """PID@BOOT of the run, to distinguish a dead run from a live one."""
    version: int = VERSION
    """Of this format."""
    reads: Mapping[str, str] = field(default_factory=dict)
    """By stage that was read, the digest of its result."""
    result: Any = None
    """The stage's result as plain JSON; none unless `done`."""
    spent: Spent | None = None
    """The cost of the attempt."""
    error: Failure | None = None
    """The error of a failed attempt."""
    parts: Parts | None = None
    """The inputs of `key`; none in entries of versions that did not record them."""

    @property
    def result_digest(self) -> str:
        """The sha256 (hex) of the result, recorded in the `reads` of later stages."""
        return hashlib.sha256(msgspec.json.encode(self.result, order="deterministic")).hexdigest()


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """An Entry whose result is not decoded: for reading a large ledger once, without holding it in memory."""

    at: str
    """When the attempt ended, or began if it has not ended (UTC, ISO 8601)."""
    run: str
    """The id of the run."""
    cell: str
    """CHIP/MODEL."""
    stage: str
    """The stage's name, or that of another kind of entry."""
    state: State
    """How far the attempt got."""
    key: str
    """The fingerprint of the stage's inputs."""
    process: str
    """PID@BOOT of the run."""
    version: int = VERSION
    """Of the format."""
    result: msgspec.Raw = msgspec.Raw(b"null")
    """The result as JSON."""
    error: Failure | None = None
    """The error of a failed attempt."""

    def entry(self, *, result: bool = True) -> Entry:
        """The entry, with its result or without."""
        return Entry(
            at=self.at,
            run=self.run,
            cell=self.cell,
            stage=self.stage,
            state=self.state,
            key=self.key,
            process=self.process,
            result=msgspec.json.decode(self.result) if result else None,
            error=self.error,
        )


def skim(path: Path) -> Iterator[Line]:
    """The entries of a ledger file, oldest first, without its unreadable lines. A missing file has none.

    Raises ConfigError for a line of a newer version, EnvironmentFault if the file cannot be read.
    """
    decoder = msgspec.json.Decoder(Line)
    try:
        with path.open("rb") as stream:
            for raw in stream:
                try:
                    line = decoder.decode(raw)
                except (ValueError, RecursionError):
                    continue
                if line.version > VERSION:
                    raise ConfigError(f"{path} was written by a newer flagrelease", hint="upgrade flagrelease")
                yield line
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> EnvironmentFault:
    return EnvironmentFault(
        f"{path} cannot be read",
        why=error.strerror or str(error),
        hint="make it a readable file, or choose another --workspace DIR",
    )


class Ledger:
    """A ledger file. Reading is incremental; appending is atomic, durable and safe across processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        self._entries: list[Entry] = []
        self._offset = 0

    def entries(self) -> list[Entry]:
        """All entries, oldest first. Unreadable lines are skipped and counted in `damaged`.

        Raises ConfigError for a line written by a newer version, EnvironmentFault if the file cannot be read.
        """
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._offset)
                fresh = stream.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(self.path, error) from None
        complete = fresh[: fresh.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in complete.splitlines():
            try:
                version = msgspec.json.decode(line).get("version")
                if isinstance(version, int) and version > VERSION:
                    raise ConfigError(f"{self.path} was written by a newer flagrelease", hint="upgrade flagrelease")
                self._entries.append(msgspec.json.decode(line, type=Entry))
            except (ValueError, AttributeError, RecursionError):
                self.damaged += 1
        return list(self._entries)

    def append(self, entry: Entry) -> Entry:
        """Add `entry` durably, with its result and error redacted, after terminating a partial line left by a killed
        writer. Returns what was written. Raises NoSpace."""
        entry = _redacted(entry)
        line = msgspec.json.encode(entry) + b"\n"
        with translate_disk_errors("writing the ledger"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                end = os.lseek(handle, 0, os.SEEK_END)
                if end and os.pread(handle, 1, end - 1) != b"\n":
                    line = b"\n" + line
                if os.write(handle, line) != len(line):
                    os.ftruncate(handle, end)
                    raise OSError(28, "No space left on device", str(self.path))
                os.fsync(handle)
            finally:
                os.close(handle)
        return entry

    def last_done(self, cell: str, stage: str, key: str | None = None) -> Entry | None:
        """The newest finished attempt at this stage, with this key if one is given."""
        return next(
            (
                entry
                for entry in reversed(self.entries())
                if entry.state == "done"
                and entry.stage == stage
                and entry.cell == cell
                and (key is None or entry.key == key)
            ),
            None,
        )

    def last(self, cell: str, stage: str) -> Entry | None:
        """The newest attempt at this stage, in any state."""
        return next((entry for entry in reversed(self.entries()) if entry.cell == cell and entry.stage == stage), None)

    def kept(self, cell: str, stage: str, key: str) -> Keep | None:
        """The newest Keep of the stage's result under `key`; none once the stage finished or failed with that key."""
        for entry in reversed(self.entries()):
            if entry.cell != cell or entry.key != key or entry.state not in ("done", "failed"):
                continue
            if entry.stage == stage:
                return None
            if entry.stage == KEEP and (keep := msgspec.convert(entry.result, Keep)).stage == stage:
                return keep
        return None


def _redacted(entry: Entry) -> Entry:
    """The entry without secrets in its result and error, which repeat what others have said. The rest is compared."""
    known = secret_variables()

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return redact(value, known)
        if isinstance(value, Mapping):
            return {key: clean(each) for key, each in value.items()}
        return [clean(each) for each in value] if isinstance(value, list | tuple) else value

    error = entry.error
    if error is not None:
        error = replace(
            error,
            what=redact(error.what, known),
            why=redact(error.why, known),
            hint=redact(error.hint, known),
            detail=redact(error.detail, known),
        )
    return replace(entry, result=clean(msgspec.to_builtins(entry.result)), error=error)


def process_id() -> str:
    """PID@BOOT of this process, unique on the machine until the PID is reused."""
    return f"{os.getpid()}@{_boot()}"


def process_lives(process: str) -> bool:
    """Whether the process with this `process_id` still runs, on this machine and in this boot."""
    pid, _, boot = process.partition("@")
    return boot == _boot() and Path(f"/proc/{pid}").exists()


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        return "unknown"


def evidence_of(result: Any) -> tuple[Evidence, ...]:
    """All evidence in a result (a frozen dataclass of contract/results.py), in its fields and their tuples."""
    files: list[Evidence] = []

    def visit(value: Any) -> None:
        if isinstance(value, Evidence):
            files.append(value)
        elif isinstance(value, tuple | list):
            for item in value:
                visit(item)

    for name in getattr(result, "__dataclass_fields__", {}):
        visit(getattr(result, name))
    return tuple(files)
