"""The published releases of a project, as they are watched."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from flagrelease.contract.results import Publish
from flagrelease.errors import ConfigError, NothingSelected, did_you_mean
from flagrelease.releases import yanks
from flagrelease.run.cell_state import image_of
from flagrelease.run.matrix_state import CellLog, read_ledger
from flagrelease.run.project import Project
from flagrelease.stages.card.files import RECORD
from flagrelease.store.evidence import EvidenceStore
from flagrelease.watching.subject import Pins, Subject

__all__ = ["logs_of", "subjects"]


def logs_of(project: Project, patterns: Sequence[str]) -> Mapping[str, CellLog]:
    """The cells of the ledger that have releases and match, whether or not matrix.yaml still has them. Raises
    ConfigError for a name that is none of them, NothingSelected if there is none."""
    known = {cell: log for cell, log in sorted(read_ledger(project.ledger.path).items()) if log.publications}
    if not known:
        raise NothingSelected("no cell has a published release", hint="`flagrelease run` publishes one")
    for text in patterns:
        if not fnmatch.filter(known, text):
            error = NothingSelected if any(sign in text for sign in "*?[") else ConfigError
            raise error(f"no published cell matches {text!r}", hint=did_you_mean(text, known))
    chosen = {cell for text in patterns for cell in fnmatch.filter(known, text)}
    return {cell: log for cell, log in known.items() if cell in chosen or not patterns}


def subjects(project: Project, log: CellLog, *, every: bool) -> Iterator[Subject]:
    """The releases of a cell: all of them, or the newest that is not yanked; the newest if all are yanked."""
    standing = yanks.standing(log.yanks)
    usable = [tag for tag in log.publications if tag not in standing]
    newest = usable[-1] if usable else next(reversed(log.publications))
    store = EvidenceStore(project.workspace.evidence)
    for tag, (_, result) in log.publications.items():
        if every or tag == newest:
            repository, _, digest = image_of(result).partition("@")
            yield Subject(
                cell=log.cell,
                tag=tag,
                repository=repository,
                digest=digest,
                folder=project.workspace.root / result.folder,
                pins=_pins(project, store, result),
                latest=digest if usable and tag == newest else "",
                copies=result.targets,
            )


def _pins(project: Project, store: EvidenceStore, result: Publish) -> Pins | None:
    """What the record says, from the release folder or else from the evidence."""
    for path in (project.workspace.root / result.folder / RECORD, store.path(result.record)):
        try:
            return msgspec.json.decode(path.read_bytes(), type=Pins)
        except (OSError, ValueError, RecursionError):
            continue
    return None
