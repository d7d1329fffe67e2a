"""The append-only history of all attempts: one JSON line each, never rewritten."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from flagrelease.errors import ConfigError
from flagrelease.store.evidence import Evidence
from flagrelease.store.files import translate_disk_errors
from flagrelease.store.parts import Keep, Parts

State = Literal["running", "done", "failed", "interrupted"]

VERSION = 1
KEEP = "keep"
"""The stage of an entry that keeps a result; `result` is the Keep, `key` the one that it is kept under."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An error as it was shown, so that `explain` can show it again."""

    kind: str
    code: int
    what: str
    why: str = ""
    hint: str = ""
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a stage cost. `seconds` is all of it; `outside` of them went to download, build, push, serving start
    and inference, so that the difference is our own overhead. `moved` counts bytes over the network."""

    seconds: float
    outside: float = 0.0
    moved: int = 0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One attempt at one stage of one cell.

    `key` is the fingerprint of the stage's inputs; `reads` maps each stage it read to the digest of the
    result that it saw. `process` is PID@BOOT of the run, so that a dead run is told from a working one.
    `stage` is `baseline` for an evaluation that cells share, `keep` for a result that somebody kept.
    """

    at: str
    run: str
    cell: str
    stage: str
    state: State
    key: str
    process: str
    version: int = VERSION
    reads: Mapping[str, str] = field(default_factory=dict)
    result: Any = None
    spent: Spent | None = None
    error: Failure | None = None
    parts: Parts | None = None
    """What `key` was made from; none in entries that were written before parts were kept."""

    @property
    def result_digest(self) -> str:
        """The sha256 (hex) of the result, by which later stages name what they saw."""
        return hashlib.sha256(msgspec.json.encode(self.result, order="deterministic")).hexdigest()


class Ledger:
    """A ledger file. Reading is cheap; appending is atomic, durable and safe between processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        self._entries: list[Entry] = []
        self._offset = 0

    def entries(self) -> list[Entry]:
        """All entries, oldest first. Lines that cannot be read are counted in `damaged` and passed over.

        Raises ConfigError for a line that a newer program wrote.
        """
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._offset)
                fresh = stream.read()
        except FileNotFoundError:
            return []
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            try:
                version = msgspec.json.decode(line).get("version")
                if isinstance(version, int) and version > VERSION:
                    raise ConfigError(f"{self.path} was written by a newer flagrelease", hint="upgrade flagrelease")
                self._entries.append(msgspec.json.decode(line, type=Entry))
            except (msgspec.DecodeError, AttributeError):
                self.damaged += 1
        return list(self._entries)

    def append(self, entry: Entry) -> None:
        """Add `entry` durably. A line that a killed writer left half-written is closed first. Raises NoSpace."""
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

    def last_done(self, cell: str, stage: str, key: str | None = None) -> Entry | None:
        """The newest finished attempt of this stage, with this key where one is given."""
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
        """The newest attempt of this stage, in whatever state."""
        return next((e for e in reversed(self.entries()) if e.cell == cell and e.stage == stage), None)

    def kept(self, cell: str, stage: str, key: str) -> Keep | None:
        """The newest word on a stage's result that holds under `key`; none once there is a result of that key."""
        for entry in reversed(self.entries()):
            if entry.cell != cell or entry.key != key or entry.state != "done":
                continue
            if entry.stage == stage:
                return None
            if entry.stage == KEEP and (keep := msgspec.convert(entry.result, Keep)).stage == stage:
                return keep
        return None


def process_id() -> str:
    """PID@BOOT of this process: unique on a machine until it is reaped."""
    return f"{os.getpid()}@{_boot()}"


def process_lives(process: str) -> bool:
    """Whether the process that wrote `process` still runs on this machine and boot."""
    pid, _, boot = process.partition("@")
    return boot == _boot() and Path(f"/proc/{pid}").exists()


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        return "unknown"


def evidence_of(result: Any) -> tuple[Evidence, ...]:
    """All evidence that a result (a frozen dataclass of results.py) names, wherever in it."""
    found: list[Evidence] = []

    def visit(value: Any) -> None:
        if isinstance(value, Evidence):
            found.append(value)
        elif isinstance(value, tuple | list):
            for item in value:
                visit(item)

    for name in getattr(result, "__dataclass_fields__", {}):
        visit(getattr(result, name))
    return tuple(found)
