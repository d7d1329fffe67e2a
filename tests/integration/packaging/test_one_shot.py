"""One-shot programs in real containers and processes: their output, their failures, and that nothing is left."""

import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import docker
import pytest

import support.served_cell as given
from flagrelease.contract.context import Context
from flagrelease.errors import CommandFailed
from flagrelease.packaging import one_shot
from flagrelease.ports.container_runner import WORKSPACE_LABEL, Runner
from flagrelease.ports.docker.engine import Engine
from flagrelease.ports.processes.runner import ProcessRunner
from flagrelease.recipe.container import ContainerRun, Placement, effective
from flagrelease.run.interrupt import StopRequested, Workers
from flagrelease.store.workspace import Workspace

pytestmark = pytest.mark.integration


class Tasks:
    def __init__(self, runner: Runner, base: str, root: Path) -> None:
        self.base = base
        self.context: Context = given.context(root, runner=runner)
        self.seen: list[tuple[float, str]] = []

    def of(self, program: str, *mounts: str) -> ContainerRun:
        job = given.job(given.cell())
        # The first process of a container has no default action for SIGTERM; the engine would wait for 10 s.
        argv = ["python3", "-uc", f"import signal, sys; signal.signal(15, lambda *_: sys.exit(1))\n{program}"]
        return one_shot.of(
            job, self.context, name="test", image=self.base, argv=argv, mounts=mounts, env={"WORD": "fine"}
        )

    def finish(self, program: str, *mounts: str, seconds: float = 60) -> str:
        note = lambda text: self.seen.append((time.monotonic(), text))  # noqa: E731
        return one_shot.finish(self.context, self.of(program, *mounts), seconds=seconds, line=note)

    def left(self) -> list[str]:
        """Containers and processes of this workspace."""
        if self.context.ports.runner.kind == "process":
            return [path.name for path in self.context.workspace.processes.glob("*")]
        label = f"label={WORKSPACE_LABEL}={self.context.workspace.root.resolve()}"
        argv = ["docker", "ps", "-aq", "--filter", label]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture(params=["docker", "process"])
def tasks(request: pytest.FixtureRequest, tmp_path: Path) -> Tasks:
    if request.param == "process":
        runner = ProcessRunner(Workspace(tmp_path))
        return Tasks(runner, runner.machine.name, tmp_path)
    return Tasks(request.getfixturevalue("engine"), request.getfixturevalue("base"), tmp_path)


@pytest.fixture
def contained(engine: Engine, base: str, tmp_path: Path) -> Tasks:
    return Tasks(engine, base, tmp_path)


def test_lines_come_while_it_runs_and_what_it_writes_stays(tasks: Tasks, tmp_path: Path) -> None:
    program = (
        "import os, sys, time; print('first'); time.sleep(1); print('täglich', os.environ['WORD'], file=sys.stderr); "
        f"open('{tmp_path}/out', 'w').write('kept'); print('no newline', end='')"
    )
    last = tasks.finish(program, f"{tmp_path}:{tmp_path}:rw")
    assert [text for _, text in tasks.seen] == ["first", "täglich fine", "no newline"]
    assert tasks.seen[1][0] - tasks.seen[0][0] > 0.8
    assert last.splitlines() == [text for _, text in tasks.seen]
    assert (tmp_path / "out").read_text() == "kept"
    assert not tasks.left()


def test_a_mount_that_is_not_writable_is_not(contained: Tasks, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="ended with 1") as caught:
        contained.finish(f"open('{tmp_path}/out', 'w')", f"{tmp_path}:{tmp_path}:ro")
    assert "Read-only file system" in caught.value.why


def test_a_failure_has_the_last_lines(tasks: Tasks) -> None:
    with pytest.raises(CommandFailed, match="ended with 3") as caught:
        tasks.finish("for n in range(500): print('line', n)\nraise SystemExit(3)")
    assert caught.value.why == "line 499"
    assert caught.value.detail.splitlines() == [f"line {n}" for n in range(300, 500)]
    assert len(tasks.seen) == 500
    assert not tasks.left()


@pytest.mark.parametrize("program", ["import time; time.sleep(600)", "while True: print('on and on')"])
def test_a_deadline_ends_it(tasks: Tasks, program: str) -> None:
    with pytest.raises(CommandFailed, match="did not end within 2 s"):
        tasks.finish(program, seconds=2)
    assert not tasks.left()


def test_a_stop_removes_it(tasks: Tasks) -> None:
    workers = Workers()
    ended: list[BaseException] = []

    def work() -> None:
        try:
            with workers.working():
                tasks.finish("import time; print('on'); time.sleep(600)")
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not tasks.seen:
        time.sleep(0.05)
    assert len(tasks.left()) == 1
    workers.stop()
    thread.join(30)
    assert isinstance(ended[0], StopRequested)
    assert not tasks.left()


def test_what_reads_the_lines_may_fail(tasks: Tasks) -> None:
    def broken(_text: str) -> None:
        raise ValueError("no such operator")

    with pytest.raises(ValueError, match="no such operator"):
        one_shot.finish(tasks.context, tasks.of("import time; print('x'); time.sleep(600)"), seconds=60, line=broken)
    assert not tasks.left()


def test_the_command_line_matches_the_api_call(contained: Tasks) -> None:
    run = replace(contained.of("pass", "/tmp:/tmp:rw"), placement=Placement(name="", port=None))
    client = docker.from_env()
    by_api = client.containers.create(**run.sdk())
    line = subprocess.run(["docker", "create", *run.argv()[3:]], capture_output=True, text=True, check=True).stdout
    by_line = client.containers.get(line.strip())
    try:
        assert effective(by_api.attrs) == effective(by_line.attrs)
        assert by_api.attrs["Config"]["Entrypoint"] == ["python3"]
        assert by_api.attrs["HostConfig"]["NetworkMode"] == "none"
    finally:
        by_api.remove()
        by_line.remove()
