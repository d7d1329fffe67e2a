"""Conditions and margins that a stage recorded with a file of answers, wherever the file lies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flagrelease.store.evidence import EvidenceStore
from flagrelease.store.ledger import Ledger
from flagrelease.verdict.samples import CONDITIONS, Conditions, read_conditions

__all__ = ["Recorded", "margins_of", "recorded_with"]

_COMPARISON = "accuracy/comparison.json"


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Records about a set of answers."""

    conditions: Conditions | None = None
    """The conditions under which the answers were given; None if not recorded."""
    margins: Mapping[str, float] = field(default_factory=dict)
    """The non-inferiority margin of each benchmark, where recorded."""


def recorded_with(samples: Path) -> Recorded:
    """The records of `samples`: next to it, in its release folder, or in the ledger of its evidence store.

    Raises ComparisonRefused if the conditions cannot be read.
    """
    # A release folder names evidence `STAGE_NAME`, and its record lies two folders above.
    for name in (CONDITIONS, f"accuracy_{CONDITIONS}"):
        if (conditions := read_conditions(samples.parent / name)) is not None:
            return Recorded(conditions=conditions, margins=_of_release(samples))
    return _in_store(samples.resolve())


def margins_of(record: Any) -> dict[str, float]:
    """The margins in a release record; empty if `record` is something else."""
    benchmarks = record.get("benchmarks") if isinstance(record, dict) else None
    rows = benchmarks.items() if isinstance(benchmarks, dict) else ()
    found = {name: row.get("margin") for name, row in rows if isinstance(row, dict)}
    return {name: margin for name, margin in found.items() if isinstance(margin, float)}


def _of_release(samples: Path) -> dict[str, float]:
    record = samples.resolve().parents[min(2, len(samples.resolve().parents) - 1)] / "release.json"
    try:
        return margins_of(json.loads(record.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}


def _in_store(samples: Path) -> Recorded:
    """The records of a file in a workspace's evidence store, which names its files by digest only."""
    digest, root = samples.name, samples.parent.parent
    ledger = root.parent / "ledger.jsonl"
    if samples.parent.name != digest[:2] or not ledger.is_file():
        return Recorded()
    store = EvidenceStore(root)
    for entry in reversed(Ledger(ledger).entries()):
        files = _evidence(entry.result)
        if entry.state != "done" or digest not in files.values():
            continue
        conditions = files.get(f"accuracy/{CONDITIONS}")
        if conditions is not None:
            return Recorded(
                conditions=read_conditions(root / conditions[:2] / conditions),
                margins=_compared(store, files.get(_COMPARISON)),
            )
    return Recorded()


def _evidence(result: Any) -> dict[str, str]:
    """By name, the digest of each evidence file that a stored result lists."""
    listed = result.get("evidence") if isinstance(result, dict) else None
    return {file["name"]: file["sha256"] for file in listed or () if isinstance(file, dict)}


def _compared(store: EvidenceStore, digest: str | None) -> dict[str, float]:
    """The margins in the comparison that the accuracy stage wrote."""
    if digest is None:
        return {}
    try:
        rows = json.loads((store.root / digest[:2] / digest).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return margins_of({"benchmarks": rows})
