"""Docker, a registry, a hub or an engine that stops answering ends the call in time, with the true reason."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import docker
import pytest

from flagrelease.config.chip import Container
from flagrelease.errors import DockerUnavailable, FlagreleaseError, RegistryUnavailable
from flagrelease.ports.docker.deadlines import Deadlines
from flagrelease.ports.docker.engine import Engine
from flagrelease.ports.openai_client import Client, NoAnswer
from flagrelease.ports.registry import OciRegistry
from flagrelease.ports.retry import Backoff
from flagrelease.recipe.container import ContainerRun, Placement
from support.archives import packed
from support.hanging_engine import HangingEngine, hanging_engine
from support.registry_stand_in import Store, standing_in

pytestmark = [pytest.mark.faults, pytest.mark.integration]

SHORT = Deadlines(ask=1.0, change=1.5, work=4.0, look=0.4, told=1.0)
NAME = "flagrelease-test-hang"
LABEL = "flagrelease.test"


class Scene:
    """An engine that may hang, and what can be asked of it."""

    def __init__(self, server: HangingEngine, base: str, registry: str) -> None:
        self.server, self.base, self.registry = server, base, registry
        self.engine = Engine(server.url, deadlines=SHORT)
        self.told: list[str] = []

    def build(self) -> object:
        # A step that takes longer than the bound of silence, as far as the test goes on.
        context = packed({"Dockerfile": f"FROM {self.base}\nRUN sleep 8\n"})
        return self.engine.build(context, tag=f"{NAME}:1", args={}, line=lambda _text: None, note=self.told.append)

    def push(self) -> object:
        self.engine.tag(self.base, f"{self.registry}/hang", "1")
        return self.engine.push(f"{self.registry}/hang", "1", lambda _done, _total: None, self.told.append)

    def pull(self) -> object:
        digest = "sha256:" + "0" * 64
        return self.engine.pull(f"{self.registry}/hang", digest, lambda _done, _total: None, self.told.append)

    def start(self) -> object:
        place = Placement(name="", port=None, labels={LABEL: NAME})
        return self.engine.start(
            ContainerRun(
                image=self.base, entrypoint=("sleep", "60"), command=(), mounts=(), env={}, flags=Container(),
                placement=place,
            )
        )  # fmt: skip

    def started(self, use: Callable[[object], object]) -> object:
        call, self.server.call = self.server.call, None
        running = self.start()
        self.server.call = call
        return use(running)


CALLS: dict[str, tuple[str, Callable[[Scene], object], float]] = {
    "build": ("POST .*/build", Scene.build, 9.0),
    "push": ("POST .*/push", Scene.push, 9.0),
    "pull": ("POST .*/images/create", Scene.pull, 9.0),
    "create": ("POST .*/containers/create", Scene.start, 5.0),
    "start": ("POST .*/start", Scene.start, 7.0),
    "inspect": ("GET .*/containers/[0-9a-f]+/json", lambda scene: scene.started(lambda run: run.ended()), 5.0),
    "follow": ("GET .*/logs", lambda scene: scene.started(lambda run: list(run.lines())), 9.0),
    "exec": ("POST .*/exec/.*/start", lambda scene: scene.started(lambda run: run.execute(["true"], seconds=1)), 9.0),
    "stop": ("POST .*/stop", lambda scene: scene.started(lambda run: run.stop()), 20.0),
    "remove": ("DELETE .*", lambda scene: scene.started(lambda run: run.stop()), 20.0),
    "ask": ("GET .*/version", lambda scene: Engine(scene.server.url, deadlines=SHORT).version(), 5.0),
    "look": ("GET .*/images/", lambda scene: scene.engine.image("x:1"), 5.0),
    "list": ("GET .*/containers/json", lambda scene: scene.engine.reap("cpu/none", Path("/nonexistent")), 5.0),
    "run": ("POST .*/wait", lambda scene: scene.engine.output(scene.base, ["sleep", "9"], {LABEL: NAME}), 12.0),
}  # fmt: skip


@pytest.fixture
def scene(engine: Engine, base: str, own_registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with hanging_engine(tmp_path_factory.mktemp("e")) as server:
        yield Scene(server, base, own_registry)
    client = docker.from_env()
    for container in client.containers.list(all=True, filters={"label": f"{LABEL}={NAME}"}):
        container.remove(force=True)
    for name in (f"{NAME}:1", f"{own_registry}/hang:1"):
        with suppress(docker.errors.APIError):
            client.api.remove_image(name)


def ends(act: Callable[[], object], seconds: float) -> FlagreleaseError:
    began = time.monotonic()
    with pytest.raises(FlagreleaseError) as caught:
        act()
    assert time.monotonic() - began < seconds
    assert "\n" not in caught.value.line()
    return caught.value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "freezes"),
    # A program that prints nothing, in an engine that answers, is no fault of Docker's.
    [(name, freezes) for name in CALLS for freezes in (False, True) if (name, freezes) != ("follow", False)],
)
def test_hang_matrix_of_docker(scene: Scene, name: str, freezes: bool) -> None:
    """Either one call is not answered, or nothing is from that call on."""
    call, act, seconds = CALLS[name]
    scene.server.hang(call, freeze=freezes)
    error = ends(lambda: act(scene), seconds)
    assert scene.server.met.is_set()
    assert isinstance(error, DockerUnavailable), error
    assert error.exit_code == 6
    assert "restart it" in error.hint
    assert "make setup" not in error.hint, "it is not down"


@pytest.mark.parametrize("freezes", [False, True], ids=["call", "engine"])
def test_a_build_that_stops_in_the_middle_is_told_and_ended(scene: Scene, freezes: bool) -> None:
    scene.server.hang("POST .*/build", freeze=freezes, after=150)
    error = ends(scene.build, 9.0)
    assert isinstance(error, DockerUnavailable)
    if freezes:
        assert "does not answer while building the image" in error.what
    else:
        assert "does not get on while building the image" in error.what
        assert "FLAGRELEASE_DOCKER_SILENCE" in error.hint
        (told,) = scene.told
        assert told.startswith("Docker Engine has said nothing for 1 s while building the image")


@pytest.mark.slow
def test_a_program_may_be_silent_for_long_while_the_engine_answers(scene: Scene) -> None:
    script = "import time; time.sleep(6); print('late')"
    place = Placement(name="", port=None, labels={LABEL: NAME})
    running = scene.engine.start(
        ContainerRun(
            image=scene.base, entrypoint=("python3", "-c", script), command=(), mounts=(), env={}, flags=Container(),
            placement=place,
        )
    )  # fmt: skip
    assert list(running.lines()) == ["late"]


@pytest.fixture
def stuck() -> Iterator[Store]:
    """A registry that never answers but to the first question."""
    over = threading.Event()

    def trouble(_method: str, path: str) -> None:
        if path != "/v2/":
            over.wait(60)

    yield Store(trouble=trouble)
    over.set()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["ask", "push", "pull"])
def test_hang_matrix_of_the_registry(scene: Scene, stuck: Store, verb: str) -> None:
    with standing_in(stuck) as host:
        scene.registry = host
        if verb == "ask":
            registry = OciRegistry(seconds=1.0, backoff=Backoff(first=0.1, budget=1.0))
            error = ends(lambda: registry.digest(f"{host}/x", "1"), 5.0)
            assert isinstance(error, RegistryUnavailable)
        else:
            error = ends(lambda: getattr(scene, verb)(), 9.0)
            assert "while pu" in error.what
            assert scene.told
        assert error.exit_code == 6
        assert host in error.line()


@pytest.mark.slow
def test_hang_matrix_of_a_served_engine(stuck: Store) -> None:
    with standing_in(stuck) as host, Client(f"http://{host}/v1", seconds=1.0) as client:
        began = time.monotonic()
        with pytest.raises(NoAnswer):
            client.models()
        assert time.monotonic() - began < 5
