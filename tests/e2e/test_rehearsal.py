"""A cell is rehearsed from the command line: everything but its chip is real, and nothing of it counts as a release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.project import CELL, UserProject, project

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.integration,
    pytest.mark.slow,  # serves two stacks and, of the other cell, builds a base image of 2.9 GB once
    pytest.mark.timeout(2400),
    pytest.mark.usefixtures("base"),
]
STAGES = ["lock", "plan", "packages", "base", "weights", "image", "container", "smoke", "accuracy", "speed", "card"]


def rehearsed(user: UserProject, cell: str, seconds: float) -> tuple[int, dict[str, Any]]:
    code, out, err = user.call("rehearse", cell, "--json", seconds=seconds)
    (report,) = json.loads(out)["cells"]
    assert report["cell"] == cell, err
    return code, report


def nothing_counts(user: UserProject) -> None:
    workspace = user.root / ".flagrelease"
    assert not (workspace / "ledger.jsonl").exists()
    assert not (workspace / "releases").exists()
    kept = {path.name for path in (workspace / "rehearsal").iterdir()}
    assert kept.isdisjoint({"evidence", "models", "weights", "work", "releases", "ledger.jsonl"})
    assert user.leftovers() == []


def test_the_cell_of_this_machine_with_its_real_weights(tmp_path: Path, own_registry: str) -> None:
    user = project(tmp_path, f"{own_registry}/rehearsed")
    code, report = rehearsed(user, CELL, 900)
    assert report["failed"] == []
    assert code == 0
    assert {each["part"] for each in report["exercised"]} >= set(STAGES)
    folder = Path(report["folder"])
    assert "dress rehearsal without the chip" in (folder / "README.md").read_text()
    assert "PASS" not in json.loads((folder / "release.json").read_text())["accuracy"]["verdict"]
    nothing_counts(user)


def test_the_seed_s_cell(tmp_path: Path) -> None:
    """Its registry and its hub do not answer from here, and its target is another one: all three are told."""
    user = project(tmp_path)
    code, report = rehearsed(user, "metax/qwen3-8b", 1800)
    assert [(each["part"], each["here"]) for each in report["failed"]] == [("kernels", False)]
    assert code == 2, "FlagGems 3.0 cannot be tuned"
    told = {each["what"] for each in report["left_out"]}
    assert "--device=/dev/mxcd" in told
    card = (Path(report["folder"]) / "README.md").read_text()
    for row in (
        "| Driver | 2.3.0 |",
        "| Operating system | ",
        "| Docker Engine | ",
        "| FlagScale | 0.8.0 |",
        "| FlagGems | 3.0 |",
        "--device=/dev/mxcd",
    ):
        assert row in card
    nothing_counts(user)
