"""What one machine fetched is all that another one takes from the network."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flagrelease.config import lockfile as locks
from flagrelease.packaging import wheelhouse
from support.project import CELL, UserProject, project

pytestmark = [pytest.mark.integration]
NO_NETWORK = {"PIP_INDEX_URL": "http://127.0.0.1:1", "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1"}


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> tuple[UserProject, dict[str, Any]]:
    here = project(tmp_path_factory.mktemp("here"))
    # Neither Docker nor a registry is asked for anything.
    code, out, err = here.call("fetch", CELL, "--json", DOCKER_HOST=f"unix://{here.root}/none.sock")
    assert code == 0, err
    return here, json.loads(out)


def carried(here: UserProject, told: dict[str, Any], root: Path) -> UserProject:
    """The project on a machine that got these folders as a tar file."""
    there = project(root)
    (root / ".flagrelease").mkdir()
    folders = [folder for cell in told["cells"] for folder in cell["folders"]]
    tar = root / "carried.tar"
    subprocess.run(["tar", "--format=pax", "-cf", tar, "-C", here.root / ".flagrelease", *folders], check=True)
    subprocess.run(["tar", "-xf", tar, "-C", root / ".flagrelease"], check=True)
    return there


def test_a_host_without_network_has_all_that_the_cell_takes(
    fetched: tuple[UserProject, dict[str, Any]], tmp_path: Path
) -> None:
    there = carried(*fetched, tmp_path)
    code, out, err = there.call("run", CELL, "--only", "weights", "--runner", "process", **NO_NETWORK)
    assert code == 0, err
    assert "weights" in out
    entries = [json.loads(line) for line in (tmp_path / ".flagrelease/ledger.jsonl").read_text().splitlines()]
    assert [(e["stage"], e["result"]["bytes_moved"]) for e in entries if e.get("result")] == [("weights", 0)]

    def no_command(*_: object, **__: object) -> Any:
        raise AssertionError("nothing is to be fetched")

    locked = locks.load(tmp_path / "matrix.lock").wheels["cpu-llama_cpp"]
    assert wheelhouse.gather(locked, tmp_path / ".flagrelease/wheels", no_command).wheels


def test_it_says_what_to_do_next(fetched: tuple[UserProject, dict[str, Any]]) -> None:
    here, told = fetched
    code, out, _ = here.call("fetch", CELL, **NO_NETWORK)  # all of it is there
    assert code == 0
    assert "FLAGRELEASE_OFFLINE=1" in out
    for folder in told["cells"][0]["folders"]:
        assert folder in out
        assert (here.root / ".flagrelease" / folder).exists()
    assert told["cells"][0]["own"] == []


def test_what_is_not_locked_is_said(fetched: tuple[UserProject, dict[str, Any]]) -> None:
    code, _, err = fetched[0].call("fetch", "metax/qwen3-8b")
    assert code == 2
    assert "flagrelease lock" in err
