"""Content-addressed evidence: immutable files named by their sha256."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flagrelease.errors import Corrupt
from flagrelease.store.digests import file_sha256
from flagrelease.store.files import sync_folder, translate_disk_errors, unfinished, write_atomic


@dataclass(frozen=True)
class Evidence:
    """A stored file."""

    name: str
    """The file name for readers, such as samples.jsonl."""
    sha256: str
    """Of the content, 64 hex digits; the key in the store."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class EvidenceStore:
    """A folder of evidence files, ROOT/ab/abcdef…, each written once and never changed."""

    root: Path

    def path(self, evidence: Evidence) -> Path:
        return self.root / evidence.sha256[:2] / evidence.sha256

    def put(self, name: str, data: bytes) -> Evidence:
        """Store `data`; a no-op if it is already stored. Raises NoSpace or EnvironmentFault."""
        evidence = Evidence(name, hashlib.sha256(data).hexdigest(), len(data))
        if not self.intact(evidence):
            write_atomic(self.path(evidence), data, mode=0o444)
        return evidence

    def put_file(self, name: str, source: Path) -> Evidence:
        """Store a copy of the file `source`. Raises NoSpace or EnvironmentFault."""
        evidence = Evidence(name, file_sha256(source), source.stat().st_size)
        if not self.intact(evidence):
            target = self.path(evidence)
            with translate_disk_errors(f"storing {name}"):
                target.parent.mkdir(parents=True, exist_ok=True)
                handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=unfinished())
                os.close(handle)
                try:
                    shutil.copyfile(source, temporary)
                    Path(temporary).chmod(0o444)
                    Path(temporary).replace(target)
                except BaseException:
                    Path(temporary).unlink(missing_ok=True)
                    raise
                sync_folder(target.parent)
        return evidence

    def read(self, evidence: Evidence) -> bytes:
        """The content, verified against its sha256. Raises Corrupt if it is missing or changed."""
        try:
            data = self.path(evidence).read_bytes()
        except FileNotFoundError:
            raise Corrupt(f"evidence {evidence.name} is missing", hint="run again to recreate it") from None
        if hashlib.sha256(data).hexdigest() != evidence.sha256:
            raise Corrupt(f"evidence {evidence.name} was changed after it was written", why=str(self.path(evidence)))
        return data

    def intact(self, evidence: Evidence) -> bool:
        """Whether the file exists with the right size: a cheap check that `plan` makes for every stage."""
        try:
            return self.path(evidence).stat().st_size == evidence.size
        except OSError:
            return False

    def missing(self, evidence: Iterable[Evidence]) -> tuple[Evidence, ...]:
        """The files that are not intact."""
        return tuple(file for file in evidence if not self.intact(file))
