"""What changed between two releases and between two states of the matrix."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flagrelease.errors import ConfigError
from flagrelease.releases import diff, facts, matrix
from flagrelease.releases.diff import Change
from flagrelease.releases.facts import Facts
from flagrelease.releases.matrix import CellState, Published

ROOT = Path(__file__).parents[3]
H100 = ROOT / "docs/example-h100/release.json"


def record(change: Callable[[dict[str, Any]], None] = lambda _: None) -> Facts:
    """The H100 example's record with a change."""
    plain = json.loads(H100.read_bytes())
    change(plain)
    return facts.read(json.dumps(plain).encode())


def changed(change: Callable[[dict[str, Any]], None]) -> tuple[Change, ...]:
    return diff.releases(record(), record(change))


def test_a_release_does_not_differ_from_itself() -> None:
    assert diff.releases(record(), record()) == ()


def test_components_operators_size_and_start_are_compared() -> None:
    def change(plain: dict[str, Any]) -> None:
        plain["chip"]["components"]["flaggems"] = "5.4.0"
        plain["image"]["versions"]["vllm"] = "0.23.0"
        del plain["image"]["versions"]["triton"]
        plain["image"]["size"] += 1_000_000
        plain["smoke"]["ready_seconds"] = 60.0
        plain["kernels"]["operators"] = [{"name": "softmax"}]

    found = {(each.area, each.name): (each.before, each.after, each.meaning) for each in changed(change)}
    assert found == {
        ("component", "flaggems"): ("5.0.2", "5.4.0", "changed"),
        ("component", "vllm"): ("0.22.1", "0.23.0", "changed"),
        ("component", "triton"): ("3.6.0", None, "removed"),
        ("operator", "mm"): ("in effect", None, "removed"),
        ("operator", "softmax"): (None, "in effect", "added"),
        ("size", "image"): (record().image.size, record().image.size + 1_000_000, "changed"),
        ("start", "ready after"): (record().smoke.ready_seconds, 60.0, "changed"),
    }


@pytest.mark.parametrize(
    ("interval", "meaning"),
    [((-0.050, -0.015), "worse"), ((0.012, 0.03), "better"), ((-0.02, 0.0), "within the intervals")],
)
def test_a_score_is_worse_only_beyond_both_intervals(interval: tuple[float, float], meaning: str) -> None:
    def change(plain: dict[str, Any]) -> None:
        plain["accuracy"]["benchmarks"][0] |= {"candidate": 0.19, "interval90": interval}

    (found,) = changed(change)
    assert (found.area, found.name, found.after, found.meaning) == ("score", "ifeval", 0.19, meaning)
    assert found.before_interval == record().accuracy.benchmarks[0].interval90
    assert found.after_interval == interval


@pytest.mark.parametrize("changes", [{"data_sha256": "0" * 64}, {"baseline": 0.5}])
def test_scores_on_other_questions_or_another_baseline_are_not_comparable(changes: dict[str, Any]) -> None:
    def change(plain: dict[str, Any]) -> None:
        plain["accuracy"]["benchmarks"][0] |= {"interval90": [-0.9, -0.8], **changes}

    (found,) = changed(change)
    assert found.meaning == "not comparable"


def test_speed_is_compared_by_load() -> None:
    def change(plain: dict[str, Any]) -> None:
        plain["speed"]["points"][0] |= {"ratio": 0.5, "interval95": [0.4, 0.6]}
        del plain["speed"]["points"][1]

    first, second = changed(change)
    assert (first.name, first.after, first.meaning) == ("512 → 128 tokens × 1", 0.5, "worse")
    assert (second.name, second.after, second.meaning) == ("512 → 128 tokens × 8", None, "removed")


def test_the_verdict_is_that_of_the_worst_gate_and_of_gates_without_one() -> None:
    assert record().verdict == "PASS"
    slow = record(lambda plain: plain["speed"].update(verdict="FAIL"))
    assert slow.verdict == "FAIL"
    assert record(lambda plain: plain.update(unfinished={"speed": "was not run"})).verdict == "INCONCLUSIVE"
    assert next(iter(diff.releases(record(), slow))).meaning == "worse"
    assert next(iter(diff.releases(slow, record()))).meaning == "better"


def cell(name: str, state: str, tag: str = "", release: Facts | None = None, **more: str) -> CellState:
    published = Published(tag=tag, facts=release) if tag else None
    return CellState(cell=name, state=state, release=published, **more)


def test_the_matrix_shows_missing_cells_first_and_regressions_next() -> None:
    slower = record(lambda plain: plain["speed"]["points"][0].update(ratio=0.5, interval95=[0.4, 0.6]))
    before = [
        cell("a/same", "released", "1", record()),
        cell("a/gone", "released", "1", record()),
        cell("a/yanked", "released", "1", record()),
        cell("a/red", "released", "1", record()),
        cell("a/slower", "released", "1", record()),
        cell("a/mended", "red", reason="smoke failed"),
        cell("a/again", "released", "1", record()),
    ]
    yanked = replace(before[2], release=replace(before[2].release, yanked="wrong answers"))  # type: ignore[type-var]
    after = [
        before[0],
        yanked,
        cell("a/red", "red", "1", record(), reason="smoke failed"),
        cell("a/slower", "released", "2", slower),
        cell("a/mended", "released", "1", record()),
        cell("a/again", "released", "2", record()),
        cell("a/new", "inconclusive"),
    ]
    found = [(each.kind, each.cell, each.after) for each in diff.matrices(before, after)]
    assert found == [
        ("missing", "a/gone", "absent"),
        ("missing", "a/yanked", "released"),
        ("regression", "a/red", "red"),
        ("regression", "a/slower", "released"),
        ("progression", "a/mended", "released"),
        ("new", "a/new", "inconclusive"),
        ("changed", "a/again", "released"),
    ]
    reasons = {each.cell: each.reason for each in diff.matrices(before, after)}
    assert reasons["a/red"] == "smoke failed"
    assert reasons["a/slower"] == "speed 512 → 128 tokens × 1 is worse"


def test_cells_are_read_as_they_were_written() -> None:
    cells = (cell("a/b", "red", "1", record(), reason="smoke failed"), cell("a/c", "new"))
    assert matrix.loads(matrix.dumps(cells), "cells.json") == cells
    with pytest.raises(ConfigError, match="version 2"):
        matrix.loads(b'{"cells": [], "version": 2}', "cells.json")
    with pytest.raises(ConfigError, match=r"x\.json cannot be read"):
        matrix.loads(b"{}", "x.json")


@pytest.mark.parametrize(
    ("raw", "said"), [(b"{}", "is not a release record"), (b"[" * 9999, "is not"), (b'{"version": 2}', "has version 2")]
)
def test_other_files_are_not_taken_for_records(raw: bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        facts.read(raw)
