"""What changed between two releases, and between two states of the whole matrix. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from flagrelease.releases.facts import Facts, Point, Score
from flagrelease.releases.matrix import CellState

Area = Literal["component", "operator", "score", "speed", "size", "start", "weights", "image", "verdict", "cell"]
Meaning = Literal["worse", "better", "changed", "added", "removed", "within the intervals", "not comparable"]
Value = str | float | int | None
Interval = tuple[float, float]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Change:
    """One difference."""

    area: Area
    """The kind of thing that differs."""
    name: str
    """The component, operator, benchmark, load or other thing."""
    before: Value
    """Its value in A; none if A does not have it."""
    after: Value
    """Its value in B; none if B does not have it."""
    meaning: Meaning
    """`worse` and `better` only where the two intervals do not overlap, or where there is no measurement error."""
    before_interval: Interval | None = None
    """Of a score: the 90 % interval of its difference to the baseline. Of a speed ratio: its 95 % interval."""
    after_interval: Interval | None = None
    """The same for B."""


@dataclass(frozen=True, kw_only=True)
class CellChange:
    """One cell of the matrix that differs."""

    cell: str
    """CHIP/MODEL."""
    kind: Literal["missing", "regression", "progression", "new", "changed"]
    """`missing`: A had a release of it, B has none. `regression` and `progression`: its state or verdict."""
    before: str
    """The state in A."""
    after: str
    """The state in B."""
    reason: str = ""
    """The reason for the state in B, in one line."""
    changes: tuple[Change, ...] = ()
    """The differences between the two releases."""


KINDS = ("missing", "regression", "progression", "new", "changed")
"""The kinds of CellChange in the order in which they are shown."""
_BADNESS = {"FAIL": 2, "INCONCLUSIVE": 1, "PASS": 0}
_GOOD = ("released", "running")


def releases(before: Facts, after: Facts) -> tuple[Change, ...]:
    """The differences between two releases, of one cell or of two."""
    return tuple(_releases(before, after))


def _releases(a: Facts, b: Facts) -> Iterator[Change]:
    yield from _plain("cell", "cell", a.cell, b.cell)
    if a.verdict != b.verdict:
        meaning: Meaning = "worse" if _BADNESS[b.verdict.value] > _BADNESS[a.verdict.value] else "better"
        yield Change(area="verdict", name="verdict", before=a.verdict.value, after=b.verdict.value, meaning=meaning)
    yield from _values("component", a.components, b.components)
    yield from _plain("weights", "weights", a.weights.digest, b.weights.digest)
    yield from _plain("image", "image", a.image.digest, b.image.digest)
    yield from _plain("image", "base image", a.image.base_id, b.image.base_id)
    for name in sorted(a.operators - b.operators):
        yield Change(area="operator", name=name, before="in effect", after=None, meaning="removed")
    for name in sorted(b.operators - a.operators):
        yield Change(area="operator", name=name, before=None, after="in effect", meaning="added")
    yield from _scores(a, b)
    yield from _speed(a, b)
    if a.image.size != b.image.size:
        yield Change(area="size", name="image", before=a.image.size, after=b.image.size, meaning="changed")
    before, after = a.smoke.ready_seconds, b.smoke.ready_seconds
    if before != after:  # measured once each, so that no direction can be claimed
        yield Change(area="start", name="ready after", before=before, after=after, meaning="changed")


def _plain(area: Area, name: str, before: Value, after: Value) -> Iterator[Change]:
    if before != after:
        yield Change(area=area, name=name, before=before, after=after, meaning="changed")


def _values(area: Area, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    for name, old, new in _joined(before, after):
        if old != new:
            meaning: Meaning = "added" if old is None else "removed" if new is None else "changed"
            yield Change(area=area, name=name, before=old, after=new, meaning=meaning)


def _scores(a: Facts, b: Facts) -> Iterator[Change]:
    before = {row.benchmark: row for row in a.accuracy.benchmarks}
    after = {row.benchmark: row for row in b.accuracy.benchmarks}
    for name, old, new in _joined(before, after):
        if old is None or new is None or (old.candidate, old.interval90) != (new.candidate, new.interval90):
            yield Change(
                area="score",
                name=name,
                before=None if old is None else old.candidate,
                after=None if new is None else new.candidate,
                meaning=_score_meaning(old, new),
                before_interval=None if old is None else old.interval90,
                after_interval=None if new is None else new.interval90,
            )


def _score_meaning(old: Score | None, new: Score | None) -> Meaning:
    if old is None or new is None:
        return "added" if old is None else "removed"
    if (old.data_sha256, old.baseline) != (new.data_sha256, new.baseline):
        return "not comparable"  # other questions, or another baseline
    return _meaning(old.interval90, new.interval90)


def _speed(a: Facts, b: Facts) -> Iterator[Change]:
    before: dict[str, Point] = {point.load: point for point in a.speed.points} if a.speed else {}
    after: dict[str, Point] = {point.load: point for point in b.speed.points} if b.speed else {}
    for name, old, new in _joined(before, after):
        if old is None or new is None or (old.ratio, old.interval95) != (new.ratio, new.interval95):
            measured = (None if old is None else old.interval95, None if new is None else new.interval95)
            meaning: Meaning = "added" if old is None else "removed" if new is None else _meaning(*measured)
            yield Change(
                area="speed",
                name=name,
                before=None if old is None else old.ratio,
                after=None if new is None else new.ratio,
                meaning=meaning,
                before_interval=measured[0],
                after_interval=measured[1],
            )


def _meaning(before: Interval | None, after: Interval | None) -> Meaning:
    if before is None or after is None:
        return "changed"
    if after[1] < before[0]:
        return "worse"
    return "better" if after[0] > before[1] else "within the intervals"


def _joined(before: Mapping[str, T], after: Mapping[str, T]) -> Iterator[tuple[str, T | None, T | None]]:
    for name in dict.fromkeys((*before, *after)):
        yield name, before.get(name), after.get(name)


def matrices(before: Iterable[CellState], after: Iterable[CellState]) -> tuple[CellChange, ...]:
    """The cells that differ between two states of the matrix, the worst kind first."""
    old = {each.cell: each for each in before}
    new = {each.cell: each for each in after}
    found = [_cell(name, a, b) for name, a, b in _joined(old, new)]
    kept = [each for each in found if each is not None]
    return tuple(sorted(kept, key=lambda each: (KINDS.index(each.kind), each.cell)))


def _cell(name: str, a: CellState | None, b: CellState | None) -> CellChange | None:
    before, after = ("absent" if each is None else each.state for each in (a, b))
    reason = "" if b is None else b.reason
    old, new = (None if each is None else each.available for each in (a, b))
    facts = [None if each is None else each.facts for each in (old, new)]
    changes = releases(facts[0], facts[1]) if facts[0] is not None and facts[1] is not None else ()
    if old is not None and new is None:
        reason = reason or ("the cell is not in B" if b is None else "it has no release any more")
        return CellChange(cell=name, kind="missing", before=before, after=after, reason=reason)
    if a is None:
        return CellChange(cell=name, kind="new", before=before, after=after, reason=reason)
    worse = [each for each in changes if each.meaning == "worse"]
    tags = (None if old is None else old.tag, None if new is None else new.tag)
    if b is None:
        return CellChange(cell=name, kind="changed", before=before, after=after, reason="the cell is not in B")
    if worse or (before in _GOOD and after not in _GOOD):
        reason = reason or "; ".join(f"{each.area} {each.name} is worse" for each in worse)
        return CellChange(cell=name, kind="regression", before=before, after=after, reason=reason, changes=changes)
    if before not in _GOOD and after in _GOOD:
        return CellChange(cell=name, kind="progression", before=before, after=after, reason=reason, changes=changes)
    if before != after or changes or tags[0] != tags[1]:
        return CellChange(cell=name, kind="changed", before=before, after=after, reason=reason, changes=changes)
    return None
