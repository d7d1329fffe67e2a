"""Evidence is what its digest says, and what is damaged is made again."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from urllib.parse import quote

import pytest

from flagrelease.errors import Corrupt, GateFailed
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


SECRET = "corréct horse/battery+staple"


@pytest.mark.parametrize(
    "written",
    [
        SECRET,
        json.dumps({"answer": SECRET}),
        quote(SECRET, safe=""),
        base64.b64encode(f"user:{SECRET}".encode()).decode(),
        repr(SECRET),
    ],
)
def test_a_secret_is_not_stored(store: EvidenceStore, monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    """Nor redacted: evidence proves what was measured, so it is either complete or refused."""
    monkeypatch.setenv("SOME_TOKEN", f"{SECRET}\n")
    with pytest.raises(GateFailed, match=r"serve\.yaml contains the value of \$SOME_TOKEN") as caught:
        store.put("serve.yaml", b"\xff\x00" + written.encode() + b"\n")
    assert SECRET not in str(caught.value.__dict__)
    assert not any(path.is_file() for path in store.root.rglob("*"))


@pytest.mark.parametrize("value", ["12345678", "paris", "Paris", "hf"])
def test_a_word_or_a_number_that_is_also_a_secret_ends_no_evaluation(
    store: EvidenceStore, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("SOME_PASSWORD", value)
    assert store.read(store.put("answers.jsonl", f"the answer is {value}".encode()))


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
