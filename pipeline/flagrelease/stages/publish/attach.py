"""What is attached to the image of a release: all files of its folder, and the statements about it (in-toto)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from flagrelease.ports.dsse import STATEMENT
from flagrelease.ports.registry.referrers import VERSION, Artifact, File
from flagrelease.stages.card.files import RECORD
from flagrelease.stages.card.record import Record
from flagrelease.stages.publish.attestations import facts
from flagrelease.stages.publish.attestations.statement import Statement
from flagrelease.stages.publish.attestations.statements import statements

__all__ = ["PREDICATE_TYPE", "RELEASE", "STATEMENT", "artifacts"]

RELEASE = "application/vnd.flagrelease.release.v1"
"""The media type of a release folder as an artifact."""
PREDICATE_TYPE = "in-toto.io/predicate-type"
"""The annotation with the type of a statement's predicate."""
_TYPES = {".json": "application/json", ".jsonl": "application/jsonl", ".md": "text/markdown", ".png": "image/png"}


def artifacts(release: Record, tag: str, sources: Mapping[str, Path]) -> tuple[Artifact, ...]:
    """The release folder with `sources`, then each statement. The same release gives the same bytes."""
    files = tuple(_file(name, path.read_bytes()) for name, path in sorted(sources.items()))
    raw = next(file.data for file in files if file.name == RECORD)
    known = facts.gather(release, raw, tag, lambda path: sources[path].read_bytes())
    whole = Artifact(kind=RELEASE, files=files, annotations={VERSION: tag})
    return (whole, *(_artifact(statement, tag) for statement in statements(known)))


def _artifact(statement: Statement, tag: str) -> Artifact:
    file = File(name=f"{statement.name}.json", media_type=STATEMENT, data=statement.data)
    return Artifact(kind=STATEMENT, files=(file,), annotations={VERSION: tag, PREDICATE_TYPE: statement.predicate_type})


def _file(name: str, data: bytes) -> File:
    media_type = _TYPES.get(PurePosixPath(name).suffix, "text/plain")
    return File(name=name, media_type=media_type, data=data)
