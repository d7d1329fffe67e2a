"""Chips are locked for the whole machine, and only what dead runs left is taken away."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from flagrelease.errors import EnvironmentFault
from flagrelease.store import machine as machines
from flagrelease.store.machine import DeadRun, SharedMachine

NOBODY = 65534
NAMES = {"cell": "gpu/big", "workspace": "/home/other/ws"}
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="acting as two users needs root")


@pytest.fixture
def machine(tmp_path: Path) -> SharedMachine:
    return SharedMachine(folder=tmp_path / "locks")


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that every user can reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def held(
    machine: SharedMachine, run: str = "mine", seen: Callable[[str], None] = lambda _holder: None
) -> AbstractContextManager[None]:
    return machine.chip("local", run, NAMES, seen, time.sleep)


def test_a_chip_is_held_by_one_run_of_all_workspaces(machine: SharedMachine) -> None:
    code = (
        f"import sys, time; sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\nfrom flagrelease.store.machine import SharedMachine\n"
        f"machine = SharedMachine(folder=Path({str(machine.folder)!r}))\n"
        f"with machine.chip('local', 'otherrun', {NAMES!r}, print, time.sleep):\n"
        "    print('held', flush=True)\n    time.sleep(60)"
    )
    seen: list[str] = []
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"

        def waiting(holder: str) -> None:
            seen.append(holder)
            other.kill()  # the lock goes with its holder

        with held(machine, seen=waiting):
            pass
    assert seen[0].startswith(f"held by run otherrun (gpu/big in /home/other/ws), pid {other.pid} on ")


def test_every_host_has_its_own_chip(machine: SharedMachine) -> None:
    with held(machine), machine.chip("ssh://gpu-1", "another", {}, pytest.fail, time.sleep):
        assert sorted(path.name for path in machine.folder.iterdir()) == ["chip-local.lock", "chip-ssh___gpu-1.lock"]


HOLDER = """
import sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from flagrelease.store.machine import SharedMachine
with SharedMachine(folder=Path({folder!r})).devices(
    "gpus", {count}, 4, {run!r}, {names!r}, lambda text: print("waits:", text, flush=True), time.sleep
) as numbers:
    print("holds:", *numbers, flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(machine: SharedMachine, run: str, count: int) -> Iterator[subprocess.Popen[str]]:
    """A process that holds devices of a machine with four until its input is closed."""
    code = HOLDER.format(path=sys.path, folder=str(machine.folder), count=count, run=run, names=NAMES)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_cells_on_disjoint_devices_run_at_once(machine: SharedMachine) -> None:
    with holder(machine, "one", 2) as one, holder(machine, "other", 2) as other:
        assert {said(one), said(other)} == {"holds: 0 1", "holds: 2 3"}


def test_who_wants_a_taken_device_is_told_its_holder_and_gets_it_after_that(machine: SharedMachine) -> None:
    with holder(machine, "small", 1) as small:
        assert said(small) == "holds: 0"
        with holder(machine, "large", 4) as large:
            told = said(large)
            assert told.startswith(
                f"waits: device 0 is held by run small (gpu/big in /home/other/ws), pid {small.pid} "
            )
            with holder(machine, "late", 1) as late:
                assert said(late).startswith(f"waits: held by run large (gpu/big in /home/other/ws), pid {large.pid} ")
                small.kill()  # its devices go with it, to the one that asked first
                while (told := said(large)).startswith("waits:"):
                    pass
                assert told == "holds: 0 1 2 3"
                large.kill()
                while (told := said(late)).startswith("waits:"):
                    pass
                assert told == "holds: 0"


def test_the_whole_chip_and_a_device_of_it_exclude_each_other(machine: SharedMachine) -> None:
    seen: list[str] = []
    with holder(machine, "small", 1) as small:
        assert said(small) == "holds: 0"

        def waiting(text: str) -> None:
            seen.append(text)
            small.kill()

        with machine.chip("gpus", "mine", NAMES, waiting, time.sleep):
            assert seen[0].startswith("device 0 is held by run small (gpu/big in ")
            with holder(machine, "late", 1) as late:
                assert said(late).startswith("waits: held by run mine (gpu/big in ")


def test_a_lock_that_was_removed_while_it_was_opened_is_not_held(machine: SharedMachine) -> None:
    """A program that tidies /tmp would else give the chip to two."""
    path, times = machine.chip_path("local"), 0

    class Tidied(SharedMachine):
        @contextmanager
        def _opened(self, path: Path) -> Iterator[int]:
            nonlocal times
            times += 1
            with super()._opened(path) as handle:
                if times == 1:
                    path.unlink()
                yield handle

    with held(Tidied(folder=machine.folder)):
        assert times == 2
        assert '"mine"' in path.read_text()


@root_only
def test_all_users_share_it(open_to_all: Path) -> None:
    machine = SharedMachine(folder=open_to_all / "locks")
    with held(machine):
        pass
    assert stat.S_IMODE(machine.folder.stat().st_mode) == 0o1777
    assert stat.S_IMODE(machine.chip_path("local").stat().st_mode) == 0o666
    child = os.fork()
    if child == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        done = 1
        try:
            with held(machine, "nobodys"), machine.chip("new", "nobodys", {}, lambda _holder: None, time.sleep):
                done = 0
        finally:
            os._exit(done)
    assert os.waitpid(child, 0)[1] == 0
    assert '"nobodys"' in machine.chip_path("local").read_text()
    assert machine.chip_path("new").stat().st_uid == NOBODY
    with machine.chip("new", "roots", {}, lambda _holder: None, time.sleep):
        assert '"roots"' in machine.chip_path("new").read_text()


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "pipe", "directory", "dangling"])
def test_what_somebody_put_in_the_place_of_a_lock_is_not_followed(
    machine: SharedMachine, tmp_path: Path, kind: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    machine.folder.mkdir()
    path = machine.chip_path("local")
    made: dict[str, Callable[[], object]] = {
        "symlink": lambda: path.symlink_to(victim),
        "hardlink": lambda: path.hardlink_to(victim),
        "pipe": lambda: os.mkfifo(path),
        "directory": path.mkdir,
        "dangling": lambda: path.symlink_to(tmp_path / "new"),
    }
    made[kind]()
    with pytest.raises(EnvironmentFault) as caught, held(machine):
        pass
    assert caught.value.exit_code == 6
    assert str(path) in caught.value.why
    assert "FLAGRELEASE_LOCKS" in caught.value.hint
    assert victim.read_text() == "precious"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_folder_that_cannot_be_used_is_the_environments(machine: SharedMachine, tmp_path: Path, kind: str) -> None:
    if kind == "file":
        machine.folder.touch()
    else:
        machine.folder.symlink_to(tmp_path)
    with pytest.raises(EnvironmentFault, match="the folder of this machine's locks") as caught, held(machine):
        pass
    assert "FLAGRELEASE_LOCKS" in caught.value.hint


def test_the_folder_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLAGRELEASE_LOCKS", str(tmp_path))
    assert SharedMachine.here().folder == tmp_path
    monkeypatch.delenv("FLAGRELEASE_LOCKS")
    assert SharedMachine.here().folder == machines._DEFAULT


def dead(machine: SharedMachine, *, gone: bool = True) -> list[DeadRun]:
    found: list[DeadRun] = []

    def take_away(run: DeadRun) -> bool:
        found.append(run)
        return gone

    machine.bury(take_away)
    return found


RUN = {"cells": "cpu/tiny gpu/big", "workspace": "/home/me/ws", "executor": "unix:///socket"}


def test_a_run_is_dead_when_its_process_is(machine: SharedMachine) -> None:
    code = (
        f"import sys, time; sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\nfrom flagrelease.store.machine import SharedMachine\n"
        f"machine = SharedMachine(folder=Path({str(machine.folder)!r}))\n"
        f"with machine.running('abc123', {RUN!r}):\n    print('up', flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "up\n"
        assert dead(machine) == []
        other.kill()
    expected = DeadRun(
        id="abc123",
        mine=True,
        here=True,
        cells=("cpu/tiny", "gpu/big"),
        workspace=Path("/home/me/ws"),
        executor="unix:///socket",
    )
    assert dead(machine, gone=False) == [expected]
    assert dead(machine) == [expected], "it stays in the list until nothing of it is left"
    assert dead(machine) == []
    assert list(machine.folder.iterdir()) == []


def test_a_run_stays_in_the_list_unless_nothing_of_it_is_left(machine: SharedMachine) -> None:
    with machine.running("clean", RUN) as entry:
        entry.gone = True
    assert dead(machine) == []
    with machine.running("hung", RUN):
        pass
    assert [run.id for run in dead(machine)] == ["hung"]


def test_a_run_knows_whether_it_is_alone(machine: SharedMachine) -> None:
    assert machine.alone(), "nobody has used this machine"
    with machine.running("dead", RUN):
        assert not machine.alone()
    assert machine.alone()


def test_the_list_is_not_trusted_further_than_needed(machine: SharedMachine, tmp_path: Path) -> None:
    machine.folder.mkdir()
    (tmp_path / "elsewhere").write_text("{}")
    (machine.folder / "run-link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(machine.folder / "run-pipe")
    (machine.folder / "run-..x").touch()
    (machine.folder / "run-deep").write_text("[" * 10_000)
    (machine.folder / "run-other").write_text('{"machine": "another", "boot": "another"}')
    (run, other) = dead(machine)
    assert (run.id, run.cells, run.executor, run.here) == ("deep", (), "", False)
    assert (other.id, other.here) == ("other", False)


@root_only
def test_the_run_of_another_user_is_known_as_such(machine: SharedMachine) -> None:
    with machine.running("theirs", RUN):
        pass
    os.chown(machine.folder / "run-theirs", NOBODY, NOBODY)
    assert [run.mine for run in dead(machine)] == [False]
