"""The `docker run` line and the docker-py arguments of a container."""

from dataclasses import replace

import pytest

import support.served_cell as given
from flagrelease.recipe import container
from flagrelease.recipe.container import ContainerRun, Placement

REFERENCE = "localhost:5000/flagrelease/x@sha256:" + "0" * 64


def run(name: str, stack: str = "flagos", placement: Placement | None = None) -> ContainerRun:
    cell = given.cell(name)
    return container.for_serving(
        cell.chip,
        cell.model,
        REFERENCE,
        container.model_path(cell.model),
        stack,
        placement or Placement(),  # type: ignore[arg-type]
    )


def test_a_chip_without_needs_gets_a_short_line() -> None:
    assert run("cpu/smollm2-135m").argv() == (
        *("docker", "run", "--detach", "--name=flagos", "--publish=8000:8000"),
        "--volume=/nfs/models/SmolLM2-135M-Instruct:/nfs/models/SmolLM2-135M-Instruct:ro",
        REFERENCE,
    )


def test_every_flag_of_a_chip_is_on_its_line() -> None:
    argv = run("metax/qwen3-8b").argv()
    for option in (
        *("--network=host", "--ipc=host", "--uts=host", "--privileged", "--shm-size=100gb"),
        *("--device=/dev/dri", "--device=/dev/mxcd", "--group-add=video", "--ulimit=memlock=-1"),
        *("--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined"),
    ):
        assert option in argv
    assert not any(argument.startswith("--publish") for argument in argv)


def test_the_native_stack_is_an_argument_of_the_image() -> None:
    assert run("cpu/smollm2-135m", "native").argv()[-2:] == (REFERENCE, "native")
    assert run("cpu/smollm2-135m", "native").sdk()["command"] == ["native"]


@pytest.mark.parametrize(
    ("placement", "published", "bound"),
    [
        (Placement(), "--publish=8000:8000", {"8000/tcp": 8000}),
        (Placement(port=None), "--publish=8000", {"8000/tcp": None}),
        (Placement(port=None, address="127.0.0.1"), "--publish=127.0.0.1::8000", {"8000/tcp": ("127.0.0.1", None)}),
        (Placement(port=9, address="127.0.0.1"), "--publish=127.0.0.1:9:8000", {"8000/tcp": ("127.0.0.1", 9)}),
    ],
)
def test_ports(placement: Placement, published: str, bound: object) -> None:
    placed = run("cpu/smollm2-135m", placement=placement)
    assert published in placed.argv()
    assert placed.sdk()["ports"] == bound


def test_with_the_hosts_network_the_engine_listens_where_the_port_would_be_published() -> None:
    assert "--env=FLAGOS_HOST=127.0.0.1" in run("metax/qwen3-8b", placement=Placement(address="127.0.0.1")).argv()
    assert not any("FLAGOS_HOST" in argument for argument in run("metax/qwen3-8b").argv())
    bridged = run("cpu/smollm2-135m", placement=Placement(address="127.0.0.1"))
    assert not any("FLAGOS_HOST" in argument for argument in bridged.argv())


def test_with_the_hosts_network_the_engine_gets_the_port() -> None:
    assert "--env=FLAGOS_PORT=8001" in run("metax/qwen3-8b", placement=Placement(port=8001)).argv()
    assert not any("FLAGOS_PORT" in argument for argument in run("metax/qwen3-8b").argv())


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("all", {"count": -1, "capabilities": [["gpu"]]}),
        ("2", {"count": 2, "capabilities": [["gpu"]]}),
        ("device=0,1", {"device_ids": ["0", "1"], "capabilities": [["gpu"]]}),
    ],
)
def test_gpus(text: str, request_: object) -> None:
    placed = run("nvidia-h100/qwen3-8b")
    placed = replace(placed, flags=replace(placed.flags, gpus=text))
    quoted = f'"{text}"' if "," in text else text
    assert f"--gpus={quoted}" in placed.argv()
    assert placed.sdk()["device_requests"] == [request_]
