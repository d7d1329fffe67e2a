"""The three ways in which a served image can fail, on real containers."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest

import support.served_cell as given
from flagrelease.contract import results
from flagrelease.errors import (
    DiedBeforeReady,
    DiedLater,
    EnvironmentFault,
    FlagreleaseError,
    NeverReady,
    PortInUse,
    SmokeFailed,
)
from flagrelease.ports import processor_time
from flagrelease.ports.container_runner import CELL_LABEL, WORKSPACE_LABEL
from flagrelease.ports.docker.engine import Engine
from flagrelease.ports.openai_client import Client
from flagrelease.recipe import container
from flagrelease.serving.server import ServeRequest, served
from support.archives import packed

pytestmark = pytest.mark.integration

Make = Callable[[str], results.Image]


@pytest.fixture(scope="module")
def make(engine: Engine, base: str, own_registry: str) -> Iterator[Make]:
    """Build and push an image whose engine fails in one way."""
    names = []

    def made(mode: str) -> results.Image:
        repository = f"{own_registry}/fake-{mode}"
        program = (Path(__file__).parents[2] / "support/fake_engine.py").read_text()
        dockerfile = f'FROM {base}\nCOPY fake.py /fake.py\nENTRYPOINT ["python3", "/fake.py", "{mode}"]\n'
        context = packed({"Dockerfile": dockerfile, "fake.py": program})
        names.append(f"{repository}:test")
        engine.build(context, tag=names[-1], args={}, line=lambda _text: None)
        pushed = engine.push(repository, "test", lambda _done, _total: None)
        return given.image(repository, pushed.digest)

    yield made
    for name in names:
        engine.untag(name)


@pytest.fixture(autouse=True)
def nothing_left(engine: Engine, tmp_path: Path) -> Iterator[None]:
    """Check that no container of the test is left."""
    (tmp_path / "weights" / "none").mkdir(parents=True)
    yield
    label = f"{WORKSPACE_LABEL}={tmp_path.resolve()}"
    assert docker.from_env().containers.list(all=True, filters={"label": label}) == []


def test_died_before_ready(make: Make, engine: Engine, tmp_path: Path) -> None:
    with (
        pytest.raises(DiedBeforeReady) as caught,
        served(
            given.job(given.cell()),
            given.context(tmp_path, runner=engine),
            ServeRequest(image=make("dies"), weights=given.weights(), stack="flagos"),
        ),
    ):
        pytest.fail("it must not be served")
    error = caught.value
    assert (error.exit_code, error.why) == (4, "its process ended with 1")
    lines = error.detail.splitlines()
    assert len(lines) == 200
    assert "model file is broken" in lines[-1] + lines[-2] + error.detail
    kept = [path.read_text() for path in (tmp_path / "evidence").rglob("*") if path.is_file()]
    assert any("model file is broken" in text for text in kept), "the log is evidence"


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("silent", "Connect|Read|Remote"),
        ("wrong-name", "it serves another"),
        ("garbage", "not JSON"),
        ("no-choices", "missing"),
        ("nan", "NaN"),
    ],
)
def test_never_ready(make: Make, engine: Engine, tmp_path: Path, mode: str, why: str) -> None:
    cell = given.cell(ready_seconds=3.0)
    with (
        pytest.raises(NeverReady) as caught,
        served(
            given.job(cell),
            given.context(tmp_path, runner=engine),
            ServeRequest(image=make(mode), weights=given.weights(), stack="flagos"),
        ),
    ):
        pytest.fail("it must not be served")
    import re

    assert re.search(why, caught.value.why), caught.value.why
    assert caught.value.detail.splitlines()[-1] == "line 299"


def test_died_later(make: Make, engine: Engine, tmp_path: Path) -> None:
    with (
        pytest.raises(DiedLater) as caught,
        served(
            given.job(given.cell()),
            given.context(tmp_path, runner=engine),
            ServeRequest(image=make("later"), weights=given.weights(), stack="flagos"),
        ) as server,
        Client(server.base_url) as client,
    ):
        client.chat(server.model, "Hello")  # it ends instead of answering
    assert caught.value.why == "its process ended with 7"
    assert "the last words" in caught.value.detail


def test_an_error_in_the_block_is_kept_while_the_server_lives(make: Make, engine: Engine, tmp_path: Path) -> None:
    with (
        pytest.raises(SmokeFailed, match="mine"),
        served(
            given.job(given.cell()),
            given.context(tmp_path, runner=engine),
            ServeRequest(image=make("fine"), weights=given.weights(), stack="flagos"),
        ),
    ):
        raise SmokeFailed("mine")


def test_a_container_s_processor_time_is_known_here_and_from_the_engine(
    make: Make, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python has started in it, which takes milliseconds."""
    request = ServeRequest(image=make("fine"), weights=given.weights(), stack="flagos")
    with served(given.job(given.cell()), given.context(tmp_path, runner=engine), request) as server:
        pid = server.running.inspect()["State"]["Pid"]
        here = processor_time.of_container(server.running.id, pid)
        assert server.running.cpu_seconds() == pytest.approx(here, abs=1)
        monkeypatch.setattr(processor_time, "of_container", lambda *_: None)  # as for an engine on another machine
        told = server.running.cpu_seconds()
    assert here is not None
    assert told is not None
    assert 0.005 < here <= told < 60


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_nothing(make: Make, engine: Engine, tmp_path: Path, stop: type[BaseException]) -> None:
    with (
        pytest.raises(stop),
        served(
            given.job(given.cell()),
            given.context(tmp_path, runner=engine),
            ServeRequest(image=make("fine"), weights=given.weights(), stack="flagos"),
        ),
    ):
        raise stop


def test_a_taken_port_is_not_the_engines_fault(make: Make, engine: Engine, tmp_path: Path) -> None:
    with (
        pytest.raises(PortInUse) as caught,
        served(
            given.job(given.cell()),
            given.context(tmp_path, runner=engine),
            ServeRequest(image=make("port"), weights=given.weights(), stack="flagos"),
        ),
    ):
        pytest.fail("it must not be served")
    assert caught.value.exit_code == 6


def started(engine: Engine, image: results.Image, workspace: Path, **placement: object) -> None:
    cell = given.cell()
    labels = {CELL_LABEL: cell.id, WORKSPACE_LABEL: str(workspace.resolve())}
    place = container.Placement(name="", port=None, address="127.0.0.1", labels=labels)
    place = replace(place, **placement)  # type: ignore[arg-type]
    engine.start(container.for_serving(cell.chip, cell.model, image.reference, "/tmp", "flagos", place))


def test_leftovers_of_killed_runs_are_reaped_and_others_left_alone(make: Make, engine: Engine, tmp_path: Path) -> None:
    mine, foreign = tmp_path, tmp_path / "other"
    image = make("fine")
    started(engine, image, mine)
    started(engine, image, foreign)
    assert engine.reap("cpu/smollm2-135m", mine) == 1
    assert engine.reap("cpu/other", foreign) == 0
    assert engine.reap("cpu/smollm2-135m", foreign) == 1


def test_a_published_port_that_is_taken(make: Make, engine: Engine, tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortInUse) as caught:
            started(engine, make("fine"), tmp_path, port=taken.getsockname()[1])
    assert "\n" not in caught.value.line()


def test_a_device_that_the_host_lacks(make: Make, engine: Engine, tmp_path: Path) -> None:
    cell = given.cell()
    chip = replace(cell.chip, container=replace(cell.chip.container, devices=("/dev/mxcd-absent",)))
    place = container.Placement(name="", port=None, labels={WORKSPACE_LABEL: str(tmp_path.resolve())})
    run = container.for_serving(chip, cell.model, make("fine").reference, "/tmp", "flagos", place)
    with pytest.raises(EnvironmentFault, match="starting") as caught:
        engine.start(run)
    assert isinstance(caught.value, FlagreleaseError)
    assert "mxcd-absent" in caught.value.why
