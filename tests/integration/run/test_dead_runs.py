"""Whoever holds the machine next removes what dead runs left there, and nothing of runs that live."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from flagrelease.config.chip import Container
from flagrelease.ports.container_runner import BOOT_LABEL, Running, labels
from flagrelease.ports.docker.engine import Engine
from flagrelease.ports.processes import supervisor
from flagrelease.ports.processes.runner import ProcessRunner
from flagrelease.recipe.container import ContainerRun, Placement
from flagrelease.run import cleanup
from flagrelease.run.executors.inline import InlineExecutor
from flagrelease.store.machine import SharedMachine
from flagrelease.store.workspace import Workspace
from support import toys
from support.process_programs import wait_until

pytestmark = pytest.mark.integration

Serve = Callable[..., Running]


@pytest.fixture
def serve(engine: Engine, base: str, tmp_path: Path) -> Iterator[Serve]:
    """Start a container of a run of some cell in some workspace."""
    started = []

    def start(run_id: str, **other: str) -> Running:
        ours = {**labels(run_id, "gpu/big", tmp_path / "their workspace"), **other}
        place = Placement(name="", port=None, address="127.0.0.1", labels=ours)
        run = ContainerRun(
            image=base, entrypoint=("sleep", "600"), command=(), mounts=(), env={}, flags=Container(), placement=place
        )
        started.append(engine.start(run))
        return started[-1]

    yield start
    for running in started:
        docker.from_env().containers.get(running.id).remove(force=True) if running.inspect() else None


def registered(engine: Engine, tmp_path: Path) -> dict[str, str]:
    return {"cells": "gpu/big", "workspace": str(tmp_path / "their workspace"), "executor": engine.address}


def test_containers_of_dead_runs_are_removed_before_the_chip_is_used(
    engine: Engine, serve: Serve, tmp_path: Path
) -> None:
    machine, told = SharedMachine(folder=tmp_path / "locks"), []
    (run,) = toys.run_cells(tmp_path, "cpu/tiny")
    ports = run.session.ports
    object.__setattr__(ports, "runner", engine)
    object.__setattr__(run.session, "machine", machine)
    with machine.running("dead1", registered(engine, tmp_path)):
        pass
    with machine.running("elsewhere1", {**registered(engine, tmp_path), "executor": "tcp://other:2375"}):
        pass
    dead, unknown, elsewhere = serve("dead1"), serve("unknown1"), serve("elsewhere1")
    with machine.running("alive1", registered(engine, tmp_path)):
        alive = serve("alive1")
        InlineExecutor().execute([run])
        assert [outcome.status for outcome in run.outcomes] == ["done", "done", "skipped", "done"]
        assert [bool(one.inspect()) for one in (dead, alive, unknown, elsewhere)] == [False, True, True, True]
        cleanup.dead_runs(machine, engine, told.append)
    assert told == [], "the dead run is not in the list any more"
    cleanup.dead_runs(machine, engine, told.append)
    assert told == ["removed 1 of the servers that the dead run alive1 of gpu/big left"]


def test_containers_of_earlier_boots_are_removed(engine: Engine, serve: Serve) -> None:
    before, now = serve("a1", **{BOOT_LABEL: "another boot"}), serve("b1")
    told: list[str] = []
    cleanup.earlier_boots(engine, told.append)
    assert [bool(one.inspect()) for one in (before, now)] == [False, True]
    assert len(told) == 1


KILLED = """
import sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from support.process_programs import STUBBORN, bare, printed
from flagrelease.ports.processes.runner import ProcessRunner
from flagrelease.store.machine import SharedMachine
from flagrelease.store.workspace import Workspace
root = Path(sys.argv[1])
runner = ProcessRunner(Workspace(root))
names = {{"cells": "gpu/big", "workspace": str(root), "executor": runner.address}}
with SharedMachine(folder=root / "locks").running("r", names):
    printed(runner.start(bare(runner, root, STUBBORN)), "up")
    time.sleep(3)  # the supervisor looks every two seconds who is there
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_processes_of_a_dead_run_of_another_workspace_are_ended(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    argv = [sys.executable, "-c", KILLED.format(path=sys.path), str(theirs)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        tree = supervisor.descendants(process.pid)
        guard = next(pid for pid in tree if b"supervisor.py" in Path(f"/proc/{pid}/cmdline").read_bytes())
        machine, runner, told = SharedMachine(folder=theirs / "locks"), ProcessRunner(Workspace(ours)), []
        cleanup.dead_runs(machine, runner, told.append)
        assert told == [], "it is alive"
        os.kill(guard, signal.SIGKILL)
        process.kill()
    assert any(supervisor.alive(pid) for pid in tree)
    cleanup.dead_runs(machine, runner, told.append)
    assert told == ["removed 1 of the servers that the dead run r of gpu/big left"]
    wait_until(lambda: not any(supervisor.alive(pid) for pid in tree))
