"""Pushes by the real engine to a real registry that fails for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import support.served_cell as given
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.errors import RegistryUnavailable
from flagrelease.ports.container_runner import LocalImage
from flagrelease.ports.docker.engine import Engine
from flagrelease.ports.registry import OciRegistry
from flagrelease.stages.image.push import push
from support.archives import packed
from support.clocks import SimulatedClock
from support.unreliable_proxy import Fault, Proxy

pytestmark = pytest.mark.integration


class Pushing:
    """The push of a small image through a proxy."""

    def __init__(self, folder: Path, engine: Engine, registry: str) -> None:
        host, _, port = registry.partition(":")
        self.clock, self.engine, self.folder = SimulatedClock(), engine, folder
        self.proxy = Proxy((host, int(port)))

    @property
    def job(self) -> Job:
        return given.job(given.cell(), f"{self.proxy.url}/{self.folder.name.replace('_', '-').lower()}")

    def context(self) -> Context:
        context = given.context(self.folder, runner=self.engine)
        ports = replace(context.ports, registry=OciRegistry(clock=self.clock), clock=self.clock)
        return replace(context, ports=ports)

    def answers(self, *faults: tuple[str, int, dict[str, str]]) -> None:
        """Answer the next call that begins so with that status and headers, once each."""
        left = list(faults)

        def plan(_number: int, method: str, path: str) -> Fault | None:
            for fault in left:
                if f"{method} {path}".startswith(f"{fault[0].split()[0]} ") and fault[0].split()[1] in path:
                    left.remove(fault)
                    return Fault(kind="status", status=fault[1], headers=fault[2])
            return None

        self.proxy.plan = plan

    def push(self) -> str:
        image = self.engine.image("flagrelease-test-push:1")
        assert isinstance(image, LocalImage)
        digest, _ = push(self.context(), self.job.repository, image, "1")
        assert self.engine.tags(self.job.repository) == (), "the name was for the push only"
        assert OciRegistry().digest(self.job.repository, "1") == digest
        return digest


@pytest.fixture
def pushing(engine: Engine, tmp_path: Path, own_registry: str) -> Iterator[Pushing]:
    name = "flagrelease-test-push:1"
    files = {"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}
    engine.build(packed(files), tag=name, args={}, line=lambda _line: None)
    made = Pushing(tmp_path, engine, own_registry)
    with made.proxy.running():
        yield made
    engine.untag(name)


@pytest.mark.parametrize("status", [500, 503])
def test_a_registry_that_fails_once_gets_the_image_again(pushing: Pushing, status: int) -> None:
    pushing.answers(("PUT /manifests/", status, {}))
    pushing.push()
    assert len([call for call in pushing.proxy.calls if " PUT " in call and "/manifests/" in call]) == 2
    assert len(pushing.clock.slept) == 1


def test_a_busy_registry_is_asked_how_long_to_wait_since_docker_does_not_tell(pushing: Pushing) -> None:
    busy = {"Retry-After": "37"}
    uploads = [("PUT /manifests/", 429, busy), ("POST /uploads/", 429, busy)]
    pushing.answers(uploads[0])
    plan = pushing.proxy.plan

    def after_the_push(number: int, method: str, path: str) -> Fault | None:
        if fault := plan(number, method, path):
            pushing.answers(uploads[1])
            return fault
        return None

    pushing.proxy.plan = after_the_push
    pushing.push()
    assert pushing.clock.slept[0] == 37.0


def test_a_wait_beyond_the_budget_is_named_and_not_begun(pushing: Pushing) -> None:
    busy = {"Retry-After": "3600"}

    def plan(_number: int, method: str, path: str) -> Fault | None:
        if (method == "PUT" and "/manifests/" in path) or (method == "POST" and pushed):
            pushed.append(path)
            return Fault(kind="status", status=429, headers=busy)
        return None

    pushed: list[str] = []
    pushing.proxy.plan = plan
    with pytest.raises(RegistryUnavailable) as caught:
        pushing.push()
    assert "asked to wait 3600 s" in caught.value.why
    assert pushing.clock.slept == []
