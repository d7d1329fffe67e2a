"""A whole cell by plain processes, with Docker Engine and registry out of reach, and a pipeline that is killed."""

import json
import re
import time
from pathlib import Path

import pytest

import support.served_cell as given
from flagrelease.ports.processes import supervisor
from flagrelease.ports.processes.runner import ProcessRunner
from flagrelease.store.files import TEMPORARY
from flagrelease.store.workspace import Workspace
from support.project import CELL, UserProject, project

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def user(tmp_path: Path) -> UserProject:
    given.need_machine(ProcessRunner(Workspace(tmp_path)), given.cell(CELL).chip.python)
    return project(tmp_path, "localhost:1/none")


def served(workspace: Path) -> list[int]:
    """The processes of what is started now, once the engine is among them."""
    for path in workspace.glob(f"processes/*/{supervisor.TREE}"):
        pids = [int(pid) for pid, _start in json.loads(path.read_text())["processes"]]
        if any(b"llama-server" in cmdline(pid) for pid in pids):
            return pids
    return []


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_killed_run_is_finished_by_the_next_one(user: UserProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{user.root}/none.sock")
    workspace = user.root / ".flagrelease"
    words = ("run", CELL, "--runner", "process", "--engine", "inline")
    with user.start(*words) as first:
        deadline = time.monotonic() + 300
        while not (pids := served(workspace)):
            assert first.poll() is None, first.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        first.kill()
        first.communicate()
    deadline = time.monotonic() + 20
    while any(supervisor.alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    code, out, err = user.call(*words, seconds=900)
    assert code == 0, err + out
    assert re.search(r"image +(= reused|✓ done)", out)
    assert re.search(r"publish +– skipped .*no image to publish", out)
    draft = workspace / "drafts" / CELL
    record = json.loads((draft / "release.json").read_text())
    assert record["image"]["runner"] == "process"
    assert record["image"]["base"].startswith("this machine: ")
    assert set(record["smoke"]["skipped"]) == {"card: docker run", "card: docker pull"}
    assert record["accuracy"]["verdict"] == "PASS"
    assert "No image was published" in (draft / "README.md").read_text()
    assert list((workspace / "processes").iterdir()) == []
    assert list(user.root.rglob(f"{TEMPORARY}*")) == []
    assert not (workspace / "releases").exists()

    code, out, _ = user.call("status", CELL)
    assert re.search(rf"{CELL} +partial", out), out
    assert user.call(*words)[0] == 0
    assert list((workspace / "processes").iterdir()) == []
