"""Content-addressed evidence: immutable files named by their sha256."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flagrelease.errors import Corrupt, GateFailed
from flagrelease.redact import secret_in
from flagrelease.store.digests import file_sha256
from flagrelease.store.files import sync_folder, translate_disk_errors, unfinished, write_atomic

_DAMAGED = ".damaged"
_MADE_AGAIN = "run again: the stage that makes it, which `flagrelease plan` names, does so"


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
        """Store `data` unless it is already stored, which its content shows. Raises NoSpace or EnvironmentFault, and
        GateFailed if it contains a secret."""
        if found := secret_in(data):
            raise GateFailed(
                f"{name} contains the value of ${found}",
                why="evidence is published with a release, and is not changed",
                hint=f"remove it from where it is written, such as matrix.yaml, or unset {found} if it is not a secret",
            )
        evidence = Evidence(name, hashlib.sha256(data).hexdigest(), len(data))
        if not self._has(evidence):
            write_atomic(self.path(evidence), data, mode=0o444)
        return evidence

    def put_file(self, name: str, source: Path) -> Evidence:
        """Store a copy of the file `source`, which no text of ours is in. Raises NoSpace or EnvironmentFault."""
        evidence = Evidence(name, file_sha256(source), source.stat().st_size)
        if not self._has(evidence):
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
        """The content, verified against its sha256.

        Raises Corrupt if it is missing or changed. A changed file is put aside, so that the next run makes it again.
        """
        path = self.path(evidence)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise Corrupt(f"evidence {evidence.name} is missing", hint=_MADE_AGAIN) from None
        if hashlib.sha256(data).hexdigest() != evidence.sha256:
            aside = path.with_name(f"{path.name}{_DAMAGED}")
            with suppress(OSError):
                path.replace(aside)
            raise Corrupt(
                f"evidence {evidence.name} was changed after it was written",
                why=f"it is kept as {aside}" if aside.exists() else f"it is {path}",
                hint=_MADE_AGAIN,
            )
        return data

    def _has(self, evidence: Evidence) -> bool:
        """Whether the content is stored, and not only a file of its name and size."""
        return self.intact(evidence) and file_sha256(self.path(evidence)) == evidence.sha256

    def intact(self, evidence: Evidence) -> bool:
        """Whether the file exists with the right size: a cheap check that `plan` makes for every stage."""
        try:
            return self.path(evidence).stat().st_size == evidence.size
        except OSError:
            return False

    def missing(self, evidence: Iterable[Evidence]) -> tuple[Evidence, ...]:
        """The files that are not intact."""
        return tuple(file for file in evidence if not self.intact(file))
