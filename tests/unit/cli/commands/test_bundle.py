"""`flagrelease bundle` and `flagrelease verify BUNDLE`: with the real client of a registry."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from flagrelease.cli import app
from flagrelease.contract.results import Publish
from flagrelease.ports.registry import OciRegistry
from flagrelease.store.evidence import Evidence
from flagrelease.store.ledger import Entry, Ledger
from flagrelease.store.workspace import Workspace
from support import bundled
from support.registry_stand_in import Store, standing_in

CELL = "cpu/smollm2-135m"


@pytest.fixture
def argv(tmp_path: Path) -> Iterator[list[str]]:
    """The command line, for a workspace with a release in a registry."""
    shutil.copy(Path(__file__).parents[4] / "matrix.yaml", tmp_path)
    workspace = Workspace(tmp_path / "space")
    with standing_in(Store()) as host:
        release = bundled.publish(OciRegistry(), workspace.releases / CELL, f"{host}/small")
        made = Publish(
            digest=release.record.image.digest,
            tags=(),
            folder=release.folder.relative_to(workspace.root).as_posix(),
            record=Evidence(name="release.json", sha256="0" * 64, size=1),
        )
        publish(workspace, made)
        yield ["bundle", CELL, "--matrix", str(tmp_path / "matrix.yaml"), "--workspace", str(workspace.root)]


def publish(workspace: Workspace, made: Publish) -> None:
    Ledger(workspace.ledger).append(
        Entry(
            at="2026-01-01T00:00:00+00:00",
            run="0" * 12,
            cell=CELL,
            stage="publish",
            state="done",
            key="0" * 64,
            process="1@boot",
            result=msgspec.to_builtins(made),
        )
    )


def test_a_bundle_is_written_and_verified_without_the_registry(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundled.weights_folder(tmp_path / "space/weights/small/0")
    assert app.main([*argv, "--output", str(tmp_path / "b"), "--weights", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["cell"], said["folder"]) == (CELL, str(tmp_path / "b"))
    assert said["bytes"] == sum(path.stat().st_size for path in (tmp_path / "b").rglob("*") if path.is_file())
    # The release has no answers, so it is not verified as a whole; what the bundle adds agrees.
    app.main(["verify", str(tmp_path / "b"), "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    own = [check for check in checks if check["check"] in ("bundle", "attestation", "image")]
    assert {check["state"] for check in own} == {"agrees"}
    assert len(own) == 15


def test_a_changed_blob_is_named_though_it_ends_the_verification(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.main(argv) == 0
    (folder,) = tmp_path.glob("cpu-smollm2-135m-tree_*.bundle")
    assert f"to check it: `flagrelease verify {folder.name}`" in capsys.readouterr().out
    (entry,) = json.loads((folder / "image/manifest.json").read_bytes())
    (folder / "image" / entry["Config"]).write_text("{}")
    assert app.main(["verify", str(folder), "--json"]) == 4
    checks = json.loads(capsys.readouterr().out)["checks"]
    digest = f"sha256:{Path(entry['Config']).name[:12]}"
    assert [check["detail"][:19] for check in checks if check["subject"] == digest] == ["the blob is sha256:"]


def test_an_unpublished_cell_has_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(Path(__file__).parents[4] / "matrix.yaml", tmp_path)
    argv = ["bundle", CELL, "--matrix", str(tmp_path / "matrix.yaml"), "--workspace", str(tmp_path / "space")]
    assert app.main(argv) == 2
    assert f"{CELL} has no published release" in capsys.readouterr().err
