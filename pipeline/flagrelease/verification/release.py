"""A release folder as it is verified: its record, and the files that the record and SHA256SUMS name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from flagrelease.errors import ConfigError
from flagrelease.stages.card import record as records
from flagrelease.stages.card.files import RECORD
from flagrelease.stages.card.record import Record
from flagrelease.stages.publish.release_folder import SUMS, evidence_paths
from flagrelease.store.digests import sha256_of
from flagrelease.store.evidence import Evidence
from flagrelease.store.ledger import evidence_of

__all__ = ["Release", "open_release"]

_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release folder. Nothing in it is trusted."""

    folder: Path
    raw: bytes
    """release.json as it is on disk."""
    record: Record
    """The same, parsed."""
    sums: Mapping[str, str] | None
    """SHA256SUMS: by path, 64 hex digits. None if the folder has none, like a draft or a copy of card and record."""
    torn_sums: tuple[str, ...] = ()
    """Lines of SHA256SUMS that cannot be read."""

    @cached_property
    def tag(self) -> str:
        """The release's tag, from the record's bytes: a record of an earlier version is written otherwise today."""
        return f"{self.record.tag[:-12]}{sha256_of(self.raw)[:12]}"

    @cached_property
    def evidence(self) -> dict[str, Evidence]:
        """The evidence that the record names, by path in the folder."""
        record = self.record
        results: list[tuple[str, tuple[Evidence, ...]]] = [
            (name, evidence_of(result))
            for name, result in (
                ("weights", record.weights),
                ("kernels", record.kernels),
                ("image", record.image),
                ("smoke", record.smoke),
                ("accuracy", record.accuracy),
                ("speed", record.speed),
            )
        ]
        results += [(name, _listed(result)) for name, result in record.further.items()]
        results += [("attribute", evidence_of(attributed)) for attributed in record.attributed]
        return evidence_paths(results)

    def read(self, path: str) -> bytes:
        """A file of the folder. Raises OSError."""
        return (self.folder / path).read_bytes()

    def find(self, stage: str, name: str) -> Path | None:
        """The file of a stage's evidence `name`; None if the record names none."""
        start = f"evidence/{stage}/"
        paths = (path for path, file in self.evidence.items() if file.name == name and path.startswith(start))
        return next((self.folder / path for path in paths), None)


def open_release(folder: Path) -> Release:
    """Read a folder's record and list of files. Raises ConfigError if it has no record that can be read."""
    try:
        raw = (folder / RECORD).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{folder} is not a release",
            why=f"{RECORD}: {error.strerror}",
            hint="give the folder of one release, .flagrelease/releases/CHIP/MODEL/TAG",
        ) from None
    record = records.loads(raw, str(folder / RECORD))
    sums, torn = _sums(folder / SUMS)
    return Release(folder=folder, raw=raw, record=record, sums=sums, torn_sums=torn)


def _sums(path: Path) -> tuple[dict[str, str] | None, tuple[str, ...]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None, ()
    lines = [(line, _LINE.fullmatch(line)) for line in text.splitlines()]
    return {match[2]: match[1] for _, match in lines if match}, tuple(line[:80] for line, match in lines if not match)


def _listed(result: Any) -> tuple[Evidence, ...]:
    """The evidence in the result of a stage without a field of its own, as evidence_of finds it."""
    found: list[Evidence] = []

    def visit(value: Any) -> None:
        if isinstance(value, dict) and value.keys() == {"name", "sha256", "size"}:
            found.append(msgspec.convert(value, Evidence))
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)

    for value in result.values() if isinstance(result, dict) else ():
        visit(value)
    return tuple(found)
