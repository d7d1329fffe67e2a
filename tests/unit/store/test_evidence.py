"""Evidence is what its digest says, and what is damaged is made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from flagrelease.errors import Corrupt
from flagrelease.store.evidence import Evidence, EvidenceStore

DATA = b'{"answer": 1}\n'


@pytest.fixture
def store(tmp_path: Path) -> EvidenceStore:
    return EvidenceStore(tmp_path / "evidence")


def damage(path: Path) -> None:
    """Another content of the same size, as from a failing disk."""
    path.chmod(0o644)
    path.write_bytes(DATA[:-2] + b"]\n")


def put(store: EvidenceStore, as_file: bool, source: Path) -> Evidence:
    if not as_file:
        return store.put("a.jsonl", DATA)
    source.write_bytes(DATA)
    return store.put_file("a.jsonl", source)


@pytest.mark.parametrize("as_file", [False, True])
def test_a_damaged_file_is_replaced_by_what_is_stored_again(
    store: EvidenceStore, as_file: bool, tmp_path: Path
) -> None:
    evidence = put(store, as_file, tmp_path / "source")
    damage(store.path(evidence))
    assert put(store, as_file, tmp_path / "source") == evidence
    assert store.read(evidence) == DATA


def test_what_is_stored_is_not_written_again(store: EvidenceStore) -> None:
    path = store.path(store.put("a.jsonl", DATA))
    before = path.stat()
    store.put("b.jsonl", DATA)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_damaged_file_is_put_aside_so_that_its_stage_runs_again(store: EvidenceStore) -> None:
    evidence = store.put("a.jsonl", DATA)
    damage(store.path(evidence))
    assert store.missing([evidence]) == (), "a plan looks at sizes"
    with pytest.raises(Corrupt, match=r"a\.jsonl was changed after it was written") as caught:
        store.read(evidence)
    assert caught.value.why == f"it is kept as {store.path(evidence)}.damaged"
    assert "flagrelease plan" in caught.value.hint
    assert store.missing([evidence]) == (evidence,)
    with pytest.raises(Corrupt, match=r"a\.jsonl is missing"):
        store.read(evidence)
    store.put("a.jsonl", DATA)
    assert store.read(evidence) == DATA
