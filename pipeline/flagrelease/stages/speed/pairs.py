"""Pairs of compared runs, and the folder in which a measurement collects them until it is decided."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from flagrelease.contract.speed_results import OtherWork
from flagrelease.stages.speed.load import Load, LoadPoint
from flagrelease.store.files import write_atomic

_NAME = re.compile(r"start-(\d+)\.json")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Consecutive runs of both stacks at one load point."""

    baseline: Load
    candidate: Load
    baseline_first: bool = True
    """Whether the baseline was measured before the candidate."""
    baseline_cpu_s: float | None = None
    """Processor seconds that the baseline's server used during its run; None if they are unknown."""
    candidate_cpu_s: float | None = None
    """The same of the candidate's server."""
    other: OtherWork | None = None
    """The processor time of other programs during both runs; None if it is unknown."""


@dataclass(frozen=True, kw_only=True)
class At:
    """The pairs at one load point."""

    point: LoadPoint
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True)
class Start:
    """All that was measured in one start of the servers."""

    tool: str
    """The load generator."""
    points: tuple[At, ...]


class Starts:
    """The starts measured so far, by number. Each is stored in `folder`, so that a later run continues after them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._starts = dict(sorted(_stored(folder)))

    @property
    def next(self) -> int:
        """The number of the next start."""
        return max(self._starts, default=-1) + 1

    @property
    def tool(self) -> str:
        return next((start.tool for start in self._starts.values()), "")

    def keep(self, number: int, tool: str, pairs: Mapping[LoadPoint, Sequence[Pair]]) -> None:
        """Store the pairs of a start, instead of those stored for it before."""
        points = tuple(At(point=point, pairs=tuple(pairs[point])) for point in pairs)
        self._starts[number] = Start(tool=tool, points=points)
        write_atomic(self._folder / f"start-{number}.json", msgspec.json.encode(self._starts[number]))

    def at(self, point: LoadPoint) -> list[tuple[int, Pair]]:
        """The pairs at a load point, each with the number of its start, in the order of measurement."""
        return [
            (number, pair)
            for number, start in self._starts.items()
            for at in start.points
            if at.point == point
            for pair in at.pairs
        ]

    def count(self, point: LoadPoint) -> int:
        """In how many starts the load point was measured."""
        return len({number for number, _pair in self.at(point)})


def _stored(folder: Path) -> Iterator[tuple[int, Start]]:
    for path in folder.glob("start-*.json"):
        name = _NAME.fullmatch(path.name)
        try:
            if name:
                yield int(name[1]), msgspec.json.decode(path.read_bytes(), type=Start)
        except (FileNotFoundError, msgspec.DecodeError):
            continue  # written by another version
