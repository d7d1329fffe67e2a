"""Real benchmark questions, from a folder outside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flagrelease.evaluation.datasets import DataFile, DataSet

CHECKOUT = Path(__file__).parents[2]
DATA = Path(os.environ.get("FLAGRELEASE_TEST_DATA", CHECKOUT.parent / "shared" / "data"))


def real(*names: str) -> DataSet:
    """The files below DATA; the test is skipped where they are not there."""
    found = [path for name in names for path in (sorted((DATA / name).rglob("*")) or [DATA / name]) if path.is_file()]
    files = [path for path in found if path.suffix in (".jsonl", ".json", ".csv", ".parquet")]
    if not files:
        pytest.skip(f"no benchmark data at {DATA / names[0]} (FLAGRELEASE_TEST_DATA names the folder)")
    named = tuple(DataFile(name=path.relative_to(DATA).as_posix(), path=path) for path in files)
    return DataSet(benchmark=names[0], digest="0" * 64, files=named)
