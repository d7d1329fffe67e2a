"""`flagrelease diff A B`: what changed between two releases, or between two states of the whole matrix."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from flagrelease.cli.text_table import aligned, counts, terminal_width
from flagrelease.errors import ConfigError, EnvironmentFault
from flagrelease.releases import diff, facts, matrix
from flagrelease.releases.diff import KINDS, CellChange, Change
from flagrelease.releases.facts import Facts, as_json
from flagrelease.releases.matrix import CellState, Published

_NAMES = ("release.json", "cells.json", "ledger.jsonl", "index.json")
"""What is read in a folder: the first of these that it has."""


def main(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="flagrelease-diff-") as downloads:
        before, after = (
            _read(subject, Path(downloads) / str(n)) for n, subject in enumerate((arguments.a, arguments.b))
        )
    if isinstance(before, Facts) and isinstance(after, Facts):
        found = diff.releases(before, after)
        output = {"a": _named(before), "b": _named(after), "changes": as_json(found)}
        text = _releases(before, after, found)
    elif isinstance(before, tuple) and isinstance(after, tuple):
        cells = diff.matrices(before, after)
        output = {"cells": as_json(cells), "compared": len({each.cell for each in (*before, *after)})}
        text = _matrices(cells, output["compared"])
    else:
        raise ConfigError(
            "a release cannot be compared with a state of the matrix",
            why=f"{arguments.a} is {_kind(before)}, {arguments.b} is {_kind(after)}",
        )
    print(json.dumps(output, indent=2, ensure_ascii=False) if arguments.json else text)
    return 0


def _read(subject: str, downloads: Path) -> Facts | tuple[CellState, ...]:
    """A release (folder, record, image) or the cells of a matrix (index, ledger, workspace)."""
    path = Path(subject)
    if not path.exists():
        return facts.read((_downloaded(subject, downloads) / _NAMES[0]).read_bytes(), subject)
    for name in _NAMES if path.is_dir() else ():
        if (path / name).exists():
            path = path / name
            break
    else:
        if path.is_dir():
            why = f"it has no {', '.join(_NAMES)}"
            raise ConfigError(f"{subject} is neither a release nor a state of the matrix", why=why)
    if path.suffix == ".jsonl":
        from flagrelease.run import matrix_state
        from flagrelease.store.workspace import Workspace

        return matrix_state.states(matrix_state.read_ledger(path), Workspace(path.parent))
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be read", why=error.strerror or str(error)) from None
    if path.name == "index.json":
        return _published(raw, path)
    return matrix.loads(raw, str(path)) if raw.startswith(b'{"cells"') else facts.read(raw, str(path))


def _published(raw: bytes, path: Path) -> tuple[CellState, ...]:
    """The newest release of each cell in index.json of a folder of releases."""
    from flagrelease.stages.publish.index import Index

    try:
        newest = {each.cell: each for each in msgspec.json.decode(raw, type=Index).releases}
        records = {cell: (path.parent / each.folder / _NAMES[0]).read_bytes() for cell, each in newest.items()}
    except (ValueError, RecursionError, OSError) as error:
        raise ConfigError(f"{path} is not an index of releases", why=str(error)) from None
    return tuple(
        CellState(
            cell=cell,
            state="released",
            release=Published(tag=each.tag, image=each.image, facts=facts.read(records[cell], each.folder)),
        )
        for cell, each in newest.items()
    )


def _downloaded(reference: str, into: Path) -> Path:
    """The release that is attached to an image. Raises ConfigError for what is no reference, and the registry's."""
    from flagrelease.ports.registry import OciRegistry
    from flagrelease.verification import image
    from flagrelease.verification.download import download

    return download(image.parse(reference), OciRegistry(), into)


def _kind(read: Facts | tuple[CellState, ...]) -> str:
    return "a release" if isinstance(read, Facts) else "a state of the matrix"


def _named(release: Facts) -> dict[str, str]:
    return {"cell": release.cell, "image": f"{release.image.repository}@{release.image.digest}"}


def _releases(before: Facts, after: Facts, found: Sequence[Change]) -> str:
    heading = f"A: {before.cell}, image {before.image.digest[:19]}\nB: {after.cell}, image {after.image.digest[:19]}"
    if not found:
        return f"{heading}\n\nno difference"
    rows = [[*_columns(each), each.meaning] for each in found]
    table = aligned(("", "name", "A", "B", "meaning"), rows, width=terminal_width())
    return f"{heading}\n\n{table}\n\n{counts((each.meaning for each in found), ('worse', 'better', 'changed'))}"


def _columns(change: Change) -> list[str]:
    shown = (_shown(change, change.before, change.before_interval), _shown(change, change.after, change.after_interval))
    return [change.area, change.name, *shown]


def _shown(change: Change, value: diff.Value, interval: tuple[float, float] | None) -> str:
    match change.area, value:
        case _, None:
            return "–"
        case "score", float():
            around = "" if interval is None else f" (difference [{interval[0]:+.3f}, {interval[1]:+.3f}])"
            return f"{value:.3f}{around}"
        case "speed", float():
            return f"{value:.3f}" + ("" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]")
        case "size", int():
            return f"{value / 1e6:.1f} MB"
        case "start", float():
            return f"{value:.1f} s"
        case _:
            text = str(value)
            return text[:19] if text.startswith("sha256:") else text


def _matrices(cells: Sequence[CellChange], compared: int) -> str:
    total = f"{compared} cell{'s' * (compared != 1)} compared"
    if not cells:
        return f"no difference, {total}"
    rows = [[each.kind, each.cell, each.before, each.after, _why(each)] for each in cells]
    table = aligned(("", "cell", "A", "B", "what"), rows, width=terminal_width())
    return f"{table}\n\n{total}: {counts(Counter(each.kind for each in cells).elements(), KINDS)}"


def _why(cell: CellChange) -> str:
    columns = [_columns(change) for change in cell.changes]
    listed = [f"{name if area == 'component' else f'{area} {name}'} {a} → {b}" for area, name, a, b in columns]
    return "; ".join([*([cell.reason] if cell.reason else []), *listed])
