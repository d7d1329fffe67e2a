"""Serving by plain processes: how they start and fail, and that none survives whichever process is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

import support.served_cell as given
from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.contract.server_pool import ServerPool
from flagrelease.errors import DiedBeforeReady, DiedLater, EnvironmentFault, FlagreleaseError, NeverReady
from flagrelease.ports.container_runner import labels
from flagrelease.ports.openai_client import Client
from flagrelease.ports.processes import supervisor
from flagrelease.ports.processes.runner import IMAGE, Folder, ProcessRunner
from flagrelease.recipe import container
from flagrelease.serving.server import ServeRequest, served
from flagrelease.store.workspace import Workspace
from support.process_programs import CELL, STUBBORN, bare, printed, wait_until

pytestmark = pytest.mark.integration

DIGEST = "sha256:" + "7" * 64
ENGINE = Path(__file__).parents[3] / "support/fake_engine.py"


@pytest.fixture
def runner(tmp_path: Path) -> ProcessRunner:
    return ProcessRunner(Workspace(tmp_path))


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert [path.name for path in Workspace(tmp_path).processes.glob("*")] == []


def image_of(root: Path, mode: str) -> results.Image:
    """A laid-out image whose engine fails in one chosen way."""
    folder = Workspace(root).image(DIGEST)
    folder.mkdir(parents=True, exist_ok=True)
    made = Folder(digest=DIGEST, size=1, labels={}, entrypoint=("python3", str(ENGINE), mode))
    (folder / IMAGE).write_bytes(msgspec.json.encode(made))
    return replace(given.image("localhost:1/none/x", DIGEST), runner="process")


def job_of(**serve: object) -> Job:
    return replace(given.job(given.cell(**serve)), runner="process")


def weights_of(context: Context) -> results.Weights:
    (context.workspace.weights / "none").mkdir(parents=True, exist_ok=True)
    return given.weights()


def test_a_server_is_asked_looked_into_and_gone(runner: ProcessRunner, tmp_path: Path) -> None:
    context = given.context(tmp_path, runner=runner)
    image, weights = image_of(tmp_path, "fine"), weights_of(context)
    others = set(supervisor.descendants(os.getpid()))  # such as a registry for other tests
    with served(job_of(), context, ServeRequest(image=image, weights=weights, stack="native")) as server:
        with Client(server.base_url, seconds=5) as client:
            assert client.chat(server.model, "Hello").text == "fine"
        assert server.base_url.endswith(f":{server.running.port(container.PORT)}/v1")
        assert any("fake_engine.py fine native" in line for line in server.running.processes())
        code, text = server.running.execute(["sh", "-c", "echo $FLAGOS_PORT $HOME"], seconds=5)
        port, home = text.split()
        assert (code, int(port)) == (0, server.running.port(container.PORT))
        assert Path(home).is_dir()
        assert home != os.environ["HOME"]
        assert server.running.execute(["sleep", "60"], seconds=0.5)[0] == 124
        model = Path(runner._workspace.image(DIGEST), container.model_path(given.cell().model).lstrip("/"))
        assert model.resolve() == (context.workspace.weights / "none").resolve()
        pids = set(supervisor.descendants(os.getpid())) - others
        assert pids
    assert not any(supervisor.alive(pid) for pid in pids)
    assert server.running.logs(5) == ""
    assert server.running.ended() is not None


@pytest.mark.parametrize(
    ("mode", "kind", "seen"),
    [
        ("dies", DiedBeforeReady, "model file is broken"),
        ("silent", NeverReady, "line 299"),
        ("wrong-name", NeverReady, "line 299"),
    ],
)
def test_a_server_that_does_not_get_ready(
    runner: ProcessRunner, tmp_path: Path, mode: str, kind: type[FlagreleaseError], seen: str
) -> None:
    context = given.context(tmp_path, runner=runner)
    image, weights = image_of(tmp_path, mode), weights_of(context)
    with (
        pytest.raises(kind) as caught,
        served(job_of(ready_seconds=3), context, ServeRequest(image=image, weights=weights, stack="flagos")),
    ):
        pass
    assert seen in caught.value.detail.splitlines()[-1]


def test_a_server_that_dies_later(runner: ProcessRunner, tmp_path: Path) -> None:
    context = given.context(tmp_path, runner=runner)
    image, weights = image_of(tmp_path, "later"), weights_of(context)
    with (
        pytest.raises(DiedLater) as caught,
        served(job_of(), context, ServeRequest(image=image, weights=weights, stack="flagos")) as server,
        Client(server.base_url, seconds=5) as client,
    ):
        client.chat(server.model, "Hello")
    assert caught.value.why == "its process ended with 7"
    assert "the last words" in caught.value.detail


def test_a_fresh_server_is_started_although_one_is_pooled(runner: ProcessRunner, tmp_path: Path) -> None:
    context = replace(given.context(tmp_path, runner=runner), server_pool=ServerPool())
    assert context.server_pool is not None
    image, weights = image_of(tmp_path, "fine"), weights_of(context)
    request, ids = ServeRequest(image=image, weights=weights, stack="native"), []
    for each in (request, request, replace(request, fresh=True)):
        with served(job_of(colocate=True), context, each) as server:
            ids.append(server.running.id)
            assert [path.name for path in Workspace(tmp_path).processes.glob("*")] == [server.running.id]
    context.server_pool.close()
    assert ids[0] == ids[1] != ids[2]


BUSY = """
import time
while time.process_time() < 1: pass
print("up", flush=True)
time.sleep(600)
"""


def test_the_processor_time_of_all_its_processes(runner: ProcessRunner, tmp_path: Path) -> None:
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}])"
    running = runner.start(bare(runner, tmp_path, program))
    assert running.cpu_seconds() < 1
    printed(running, "up")
    assert running.cpu_seconds() >= 0.9
    running.stop()


def test_stopping_ends_the_whole_tree(runner: ProcessRunner, tmp_path: Path) -> None:
    others = set(supervisor.descendants(os.getpid()))
    running = runner.start(bare(runner, tmp_path, STUBBORN))
    printed(running, "up")
    wait_until(lambda: any("time.sleep(600)" in line and "fork" not in line for line in running.processes()))
    tree = set(supervisor.descendants(os.getpid())) - others
    assert len(tree) >= 3
    running.stop()
    assert not any(supervisor.alive(pid) for pid in tree)
    running.stop()


def test_a_server_of_others_is_never_taken_for_ours(runner: ProcessRunner, tmp_path: Path) -> None:
    listen = (
        "import socket, time; s = socket.create_server(('127.0.0.1', {})); print(s.getsockname()[1]); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-uc", listen.format(0)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        run = bare(runner, tmp_path, "import time; time.sleep(600)")
        idle = runner.start(replace(run, placement=replace(run.placement, port=port)))
        with pytest.raises(EnvironmentFault, match="it does not listen on port") as caught:
            idle.port(port)
        assert caught.value.why == "another program does"
        other.kill()
        other.wait()
        with pytest.raises(EnvironmentFault) as caught:
            idle.port(port)
        assert caught.value.why == "nothing does"
        idle.stop()
    run = bare(runner, tmp_path, listen.format(port))
    ours = runner.start(replace(run, placement=replace(run.placement, port=port)))
    printed(ours, str(port))
    assert ours.port(port) == port
    ours.stop()


PIPELINE = f"""
import os, sys, time
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parents[3])]!r}
from support.process_programs import STUBBORN, bare, printed
from flagrelease.ports.processes.runner import ProcessRunner
from flagrelease.store.workspace import Workspace
root = Path(sys.argv[1])
runner = ProcessRunner(Workspace(root))
running = runner.start(bare(runner, root, STUBBORN))
printed(running, "up")
time.sleep(3)  # the supervisor looks every two seconds who is there
print("ready", flush=True)
time.sleep(600)
"""


def pipeline(root: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A pipeline in a process of its own that serves, and all that it has started."""
    argv = [sys.executable, "-c", PIPELINE, str(root)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process, supervisor.descendants(process.pid)


def test_a_killed_pipeline_takes_its_processes_with_it(runner: ProcessRunner, tmp_path: Path) -> None:
    process, tree = pipeline(tmp_path)
    assert len(tree) >= 3
    assert sum(supervisor.alive(pid) for pid in tree) >= 3
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(supervisor.alive(pid) for pid in tree))
    assert len(list(runner._workspace.processes.glob("*"))) == 1
    assert runner.reap("cpu/another", tmp_path) == 0
    assert runner.reap(CELL, tmp_path) == 1


def test_what_a_killed_supervisor_leaves_is_reaped(runner: ProcessRunner, tmp_path: Path) -> None:
    process, tree = pipeline(tmp_path)
    guard = next(pid for pid in tree if b"supervisor.py" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(guard, signal.SIGKILL)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)
    assert any(supervisor.alive(pid) for pid in tree)
    assert runner.reap(CELL, tmp_path) == 1
    assert not any(supervisor.alive(pid) for pid in tree)


@pytest.mark.parametrize(("recycled", "lives"), [(True, True), (False, False)])
def test_only_the_process_that_was_started_is_ended(
    runner: ProcessRunner, tmp_path: Path, recycled: bool, lives: bool
) -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        folder = runner._workspace.processes / "1"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"image": "", "labels": labels("r", CELL, tmp_path)}))
        start = "1" if recycled else supervisor.started(other.pid)
        tree = {"where": supervisor.where(), "processes": [[other.pid, start]]}
        (folder / supervisor.TREE).write_text(json.dumps(tree))
        assert runner.reap(CELL, tmp_path) == 1
        assert (other.poll() is None) == lives
        other.kill()


def test_process_ids_of_another_boot_mean_nothing(runner: ProcessRunner, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        folder = runner._workspace.processes / "1"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"image": "", "labels": labels("r", CELL, tmp_path)}))
        tree = {"where": "another boot", "processes": [[other.pid, supervisor.started(other.pid)]]}
        (folder / supervisor.TREE).write_text(json.dumps(tree))
        runner.reap(CELL, tmp_path)
        assert other.poll() is None
        other.kill()


def test_what_is_ours_stays_ours(runner: ProcessRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_TOKEN", "very-secret-value")
    monkeypatch.setenv("FLAGRELEASE_REGISTRY", "localhost:1/none")
    monkeypatch.setenv("OF_THE_MACHINE", "kept")
    monkeypatch.setenv("PYTHONPATH", str(Path(supervisor.__file__).parents[3]))
    program = (
        "import os, sys; print(sys.prefix, *(f'{k}={v}' for k, v in os.environ.items()))\n"
        "print('very-secret-' + 'value')"
    )
    running = runner.start(bare(runner, tmp_path, program))
    *shown, last = running.lines()
    running.stop()
    environment = "\n".join(shown)  # a variable may have several lines
    assert "OF_THE_MACHINE=kept" in environment
    assert not any(word in environment for word in ("HUB_TOKEN", "FLAGRELEASE_REGISTRY", "PYTHONPATH", "VIRTUAL_ENV"))
    assert not environment.startswith(sys.prefix)
    assert last == "$HUB_TOKEN"


def test_what_cannot_be_started_says_why(runner: ProcessRunner, tmp_path: Path) -> None:
    good = bare(runner, tmp_path, "pass")
    for run, seen in (
        (replace(good, entrypoint=("no-such-program",)), "program no-such-program not found"),
        (replace(good, image="x@sha256:1"), "x@sha256:1 is not in this workspace"),
        (replace(good, mounts=("/usr:/elsewhere:ro",)), "/usr cannot be mounted at /elsewhere"),
        (replace(good, mounts=("/no/such/folder:/no/such/folder:ro",)), "/no/such/folder does not exist"),
    ):
        with pytest.raises(EnvironmentFault, match=seen):
            runner.start(run)
    with pytest.raises(EnvironmentFault, match="is not in this workspace"):
        runner.pull("x", "sha256:1", lambda _done, _total: None)
    with pytest.raises(EnvironmentFault, match="ended with 1") as caught:
        runner.output(runner.machine.name, ["python3", "-c", "raise SystemExit('the reason')"], {})
    assert caught.value.why == "the reason"


def test_an_exit_by_a_signal_reads_as_docker_says_it(runner: ProcessRunner, tmp_path: Path) -> None:
    running = runner.start(bare(runner, tmp_path, "import os; os.kill(os.getpid(), 9)"))
    wait_until(running.ended)
    ended = running.ended()
    running.stop()
    assert ended is not None
    assert (ended.code, ended.out_of_memory) == (137, False)
