"""The folders of a workspace stay where earlier versions have put them."""

from __future__ import annotations

from pathlib import Path

from flagrelease.store.workspace import Workspace, manifest_of

FOLDERS = (
    "evidence",
    "weights",
    "data",
    "wheels",
    "images",
    "processes",
    "kernels",
    "locks",
    "prefect",
    "releases",
    "drafts",
)


def test_what_an_earlier_version_stored_is_found_again(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert [getattr(workspace, name) for name in FOLDERS] == [tmp_path / name for name in FOLDERS]
    assert workspace.ledger == tmp_path / "ledger.jsonl"
    assert workspace.image("sha256:" + "a" * 64) == tmp_path / "images" / ("a" * 32)
    assert manifest_of(workspace.weights / "m@1.0") == tmp_path / "weights" / "m@1.0.json"
    scratch = workspace.scratch("cpu/m", "weights")
    assert scratch == workspace.scratch("cpu/m", "weights") == tmp_path / "work/cpu/m/weights"
    assert scratch.is_dir()
