"""`compare` finds the conditions and margins that a stage recorded, in every place where answers lie."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from flagrelease.errors import ComparisonRefused
from flagrelease.store.evidence import EvidenceStore
from flagrelease.store.ledger import Entry, Ledger
from flagrelease.verdict.compare import compare_main
from flagrelease.verdict.samples import Conditions, Sample, dump
from support.answer_sets import flipped

CONDITIONS = Conditions(model="m", data={"sums": "1"}, sampling={}, population={"sums": 300})
BEFORE, AFTER = flipped(300, 200, 200, 30, "sums")


def content(samples: list[Sample]) -> bytes:
    return "".join(map(dump, samples)).encode()


def workspace(root: Path, conditions: Conditions = CONDITIONS) -> tuple[Path, Path]:
    """The answers of both sides, as `explain` names them."""
    store = EvidenceStore(root / "evidence")
    files = [
        store.put("accuracy/samples.jsonl", content(AFTER)),
        store.put("accuracy/conditions.json", conditions.dump().encode()),
        store.put("accuracy/baseline.samples.jsonl", content(BEFORE)),
        store.put("accuracy/comparison.json", json.dumps({"sums": {"margin": 0.07}}).encode()),
    ]
    result = {"evidence": [asdict(file) for file in files]}
    entry = Entry(at="", run="r", cell="c", stage="accuracy", state="done", key="k", process="", result=result)
    Ledger(root / "ledger.jsonl").append(entry)
    return store.path(files[2]), store.path(files[0])


def judged(a: Path, b: Path) -> float:
    return float(json.loads(compare_main(a, b, {}, True)[0])["benchmarks"]["sums"]["margin"])


def test_answers_in_a_workspace_are_judged_as_their_stage_did(tmp_path: Path) -> None:
    a, b = workspace(tmp_path)
    assert judged(a, b) == 0.07
    text, _ = compare_main(a, b, {}, False)
    assert "not verified" not in text
    assert "usual one" not in text
    assert json.loads(compare_main(a, b, {"*": 0.2}, True)[0])["benchmarks"]["sums"]["margin"] == 0.2


def test_answers_of_two_workspaces_need_the_same_conditions(tmp_path: Path) -> None:
    a, _ = workspace(tmp_path / "a")
    _, b = workspace(tmp_path / "b", Conditions(model="another", data={"sums": "1"}, sampling={}))
    with pytest.raises(ComparisonRefused, match="differ in their model"):
        compare_main(a, b, {}, False)


def test_answers_in_a_release_folder_have_its_margins(tmp_path: Path) -> None:
    folder = tmp_path / "evidence" / "accuracy"
    folder.mkdir(parents=True)
    (tmp_path / "release.json").write_text(json.dumps({"benchmarks": {"sums": {"margin": 0.09}}}))
    (folder / "accuracy_conditions.json").write_text(CONDITIONS.dump())
    (folder / "accuracy_samples.jsonl").write_bytes(content(AFTER))
    (folder / "accuracy_baseline.samples.jsonl").write_bytes(content(BEFORE))
    a, b = folder / "accuracy_baseline.samples.jsonl", folder / "accuracy_samples.jsonl"
    assert judged(a, b) == 0.09
    assert "not verified" not in compare_main(a, b, {}, False)[0]


def test_a_margin_that_nobody_set_is_named(tmp_path: Path) -> None:
    for name, samples in (("a.jsonl", BEFORE), ("b.jsonl", AFTER)):
        (tmp_path / name).write_bytes(content(samples))
    text, _ = compare_main(tmp_path / "a.jsonl", tmp_path / "b.jsonl", {}, False)
    assert "sums: the margin is the usual one; --margin sums=FRACTION sets another" in text
    assert "usual one" not in compare_main(tmp_path / "a.jsonl", tmp_path / "b.jsonl", {"sums": 0.1}, False)[0]
