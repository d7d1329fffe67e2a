"""Check that a release's charts show the numbers of its record."""

from __future__ import annotations

from collections.abc import Iterator

from flagrelease.stages.card import charts
from flagrelease.verification.findings import Check, agrees, differs, not_checked
from flagrelease.verification.release import Release

__all__ = ["checks"]

_CHECK = "card"


def checks(release: Release) -> Iterator[Check]:
    """The pictures, drawn again; other versions of the drawing library give other bytes for the same numbers."""
    record = release.record
    drawn: list[tuple[str, bytes]] = []
    if record.accuracy.benchmarks:
        drawn.append((charts.SCORES, charts.scores(record)))
    if record.speed is not None:
        drawn.append((charts.SPEED, charts.speed(record, record.speed)))
    same = []
    for name, expected in drawn:
        path = release.folder / name
        if not path.is_file():
            yield differs(_CHECK, name, "missing; the card shows it")
        elif path.read_bytes() == expected:
            same.append(name)
        else:
            why = "drawn from the record it has other bytes: it is another picture, or drawn by other versions"
            yield not_checked(_CHECK, name, why)
    if same:
        yield agrees(_CHECK, ", ".join(same), "drawn again from the record, equal")
