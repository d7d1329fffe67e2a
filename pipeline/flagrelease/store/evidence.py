"""Evidence: immutable files named by their sha256."""

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
    """One kept file. `name` is what a reader calls it, `sha256` (64 hex digits) is what it is."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class EvidenceStore:
    """A folder of evidence: ROOT/ab/abcdef…, written once, never changed."""

    root: Path

    def path(self, evidence: Evidence) -> Path:
        return self.root / evidence.sha256[:2] / evidence.sha256

    def put(self, name: str, data: bytes) -> Evidence:
        """Keep `data`. Keeping the same bytes again costs nothing. Raises NoSpace."""
        evidence = Evidence(name, hashlib.sha256(data).hexdigest(), len(data))
        if not self.intact(evidence):
            write_atomic(self.path(evidence), data, mode=0o444)
        return evidence

    def put_file(self, name: str, source: Path) -> Evidence:
        """Keep a copy of the file `source`. Raises NoSpace."""
        evidence = Evidence(name, file_sha256(source), source.stat().st_size)
        if not self.intact(evidence):
            target = self.path(evidence)
            with translate_disk_errors(f"keeping {name}"):
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
        """The bytes, checked against their name. Raises Corrupt when they are missing or changed."""
        try:
            data = self.path(evidence).read_bytes()
        except FileNotFoundError:
            raise Corrupt(f"evidence {evidence.name} is missing", hint="run again: the stage makes it anew") from None
        if hashlib.sha256(data).hexdigest() != evidence.sha256:
            raise Corrupt(f"evidence {evidence.name} was changed after it was written", why=str(self.path(evidence)))
        return data

    def intact(self, evidence: Evidence) -> bool:
        """Whether the file is there with its size. Cheap, so that `plan` can ask it of every stage."""
        try:
            return self.path(evidence).stat().st_size == evidence.size
        except OSError:
            return False

    def missing(self, evidence: Iterable[Evidence]) -> tuple[Evidence, ...]:
        return tuple(one for one in evidence if not self.intact(one))
