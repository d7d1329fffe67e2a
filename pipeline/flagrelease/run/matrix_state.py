"""The state of every cell and its releases, from a ledger and the records of the releases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from flagrelease.contract.results import ACCURACY, IMAGE, PUBLISH, SPEED, Publish
from flagrelease.errors import FlagreleaseError
from flagrelease.releases import facts, rot, yanks
from flagrelease.releases.facts import Facts, Gate, Speed
from flagrelease.releases.matrix import CellState, Published
from flagrelease.releases.rot import WATCH, Rot
from flagrelease.releases.yanks import YANK, Yank
from flagrelease.run.cell_state import image_of, own_tag, status
from flagrelease.stages import STAGES
from flagrelease.stages.card.files import RECORD
from flagrelease.store.evidence import Evidence, EvidenceStore
from flagrelease.store.ledger import Line, skim
from flagrelease.store.workspace import Workspace

__all__ = ["CellLog", "Evaluation", "cell_state", "evaluation", "published", "read_ledger", "states"]

_STAGES = frozenset(stage.name for stage in STAGES)
_SIDES = ("accuracy/baseline.samples.jsonl", "accuracy/samples.jsonl")
_WITH_RESULT = (IMAGE.stage, PUBLISH.stage)


@dataclass(kw_only=True)
class CellLog:
    """What a ledger says about one cell."""

    cell: str
    """CHIP/MODEL."""
    latest: dict[str, Line] = field(default_factory=dict)
    """The newest entry of each stage."""
    publications: dict[str, tuple[str, Publish]] = field(default_factory=dict)
    """By tag, the time and the result of the publication, oldest first."""
    yanks: list[Yank | None] = field(default_factory=list)
    """Statements about yanked releases, oldest first."""
    rots: list[Rot | None] = field(default_factory=list)
    """What watches found, oldest first."""
    failures: list[Line] = field(default_factory=list)
    """Attempts that failed, oldest first."""


def read_ledger(path: Path) -> dict[str, CellLog]:
    """What a ledger file says, by cell. Raises ConfigError or EnvironmentFault if it cannot be read."""
    logs: dict[str, CellLog] = {}
    for line in skim(path):
        if line.stage in _STAGES:
            _note(logs.setdefault(line.cell, CellLog(cell=line.cell)), line)
        elif line.stage == YANK:
            logs.setdefault(line.cell, CellLog(cell=line.cell)).yanks.append(yanks.parse(line.entry().result))
        elif line.stage == WATCH:
            logs.setdefault(line.cell, CellLog(cell=line.cell)).rots.append(rot.parse(line.entry().result))
    return logs


def _note(log: CellLog, line: Line) -> None:
    log.latest[line.stage] = line
    if line.state == "failed":
        log.failures.append(line)
    if line.stage == PUBLISH.stage and line.state == "done":
        try:
            result = msgspec.json.decode(line.result, type=Publish)
        except msgspec.ValidationError:  # written by another version
            return
        if result.tags:
            tag = own_tag(result)
            log.publications.pop(tag, None)
            log.publications[tag] = (line.at, result)


def published(log: CellLog, workspace: Workspace) -> Iterator[Published]:
    """The cell's releases with their records, oldest first."""
    standing, found = yanks.standing(log.yanks), rot.standing(log.rots)
    for tag, (at, result) in log.publications.items():
        yield Published(
            tag=tag,
            at=at,
            image=image_of(result),
            folder=result.folder,
            facts=_facts(result, workspace),
            yanked=standing[tag].reason if tag in standing else "",
            rot=found.get(tag),
        )


def _facts(result: Publish, workspace: Workspace) -> Facts | None:
    """The release's figures, from its folder or else from the evidence; None if both are lost."""
    stored = EvidenceStore(workspace.evidence).path(result.record)
    for path in (workspace.root / result.folder / RECORD, stored):
        try:
            return facts.read(path.read_bytes(), str(path))
        except (OSError, FlagreleaseError):
            continue
    return None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The newest evaluation of a cell, whether or not a release came of it."""

    at: str
    """When it ended (UTC, ISO 8601)."""
    accuracy: Gate
    """The scores."""
    speed: Speed | None
    """The speed, if it was measured afterwards."""
    answers: tuple[Path, Path] | None
    """The files with the answers of the baseline and of the cell; none if it has no baseline."""


class _Stored(msgspec.Struct):
    evidence: tuple[Evidence, ...] = ()


def evaluation(log: CellLog, workspace: Workspace) -> Evaluation | None:
    """The cell's newest evaluation; None if there is none, or another version wrote it."""
    scored, timed = log.latest.get(ACCURACY.stage), log.latest.get(SPEED.stage)
    if scored is None or scored.state != "done":
        return None
    try:
        gate = msgspec.json.decode(scored.result, type=Gate)
        files = msgspec.json.decode(scored.result, type=_Stored).evidence
        measured = timed is not None and timed.state == "done" and timed.at >= scored.at
        speed = msgspec.json.decode(timed.result, type=Speed) if timed is not None and measured else None
    except msgspec.ValidationError:
        return None
    store = EvidenceStore(workspace.evidence)
    paths = {file.name: store.path(file) for file in files}
    sides = tuple(paths[name] for name in _SIDES if name in paths)
    return Evaluation(
        at=scored.at, accuracy=gate, speed=speed, answers=(sides[0], sides[1]) if len(sides) == len(_SIDES) else None
    )


def cell_state(log: CellLog, releases: Iterable[Published], *, excluded: str = "") -> CellState:
    """The cell's state now, with the newest of its `releases`."""
    entries = {name: line.entry(result=name in _WITH_RESULT) for name, line in log.latest.items()}
    now = status(log.cell, entries, excluded=excluded, yanks=yanks.standing(log.yanks), rot=rot.standing(log.rots))
    newest = None
    for newest in releases:  # noqa: B007 - the last one
        pass
    return CellState(cell=log.cell, state=now.state, reason=now.reason, stage=now.stage, at=now.at, release=newest)


def states(logs: Mapping[str, CellLog], workspace: Workspace) -> tuple[CellState, ...]:
    """All cells of a ledger, by name."""
    return tuple(cell_state(log, published(log, workspace)) for _, log in sorted(logs.items()))
