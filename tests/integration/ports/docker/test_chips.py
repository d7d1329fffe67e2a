"""The contract of each chip of the shipped matrix: Docker Engine makes the same container of the card's `docker run`
and of what we start."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest

import support.served_cell as given
from flagrelease.ports.docker.engine import Engine
from flagrelease.recipe import container
from flagrelease.recipe.container import Placement
from flagrelease.recipe.devices import on_card
from flagrelease.stages.smoke.card_commands import card_run
from support.archives import packed

pytestmark = pytest.mark.integration

CELLS = {cell.chip_name: cell for cell in given.cells.expand(given.matrix())}
"""Any one of the chip's; the model does not matter."""


@pytest.fixture(scope="module")
def tiny() -> Iterator[str]:
    name, engine = "flagrelease-test-chips:1", Engine()
    context = packed({"Dockerfile": 'FROM scratch\nCOPY Dockerfile /\nENTRYPOINT ["/Dockerfile"]\n'})
    engine.build(context, tag=name, args={}, line=lambda _text: None)
    yield name
    engine.untag(name)


def test_every_vendors_options_are_tried() -> None:
    assert {cell.chip.vendor for cell in CELLS.values()} >= {"nvidia", "metax", "ascend", "thead", "amd", "arm"}


@pytest.mark.parametrize("chip", CELLS)
def test_the_cards_line_makes_the_container_that_we_start(chip: str, tiny: str, tmp_path: Path) -> None:
    """Docker Engine takes devices and folders that this host lacks when it creates a container; nothing is left out."""
    cell = CELLS[chip]
    image = replace(given.image("r", "sha256:0"), repository="r")
    line = card_run(cell, image, on_card(cell.chip, cell.model.serve.devices))
    ours = container.for_serving(cell.chip, cell.model, tiny, str(tmp_path), cell.stack, Placement(name=""))
    card = replace(line, image=tiny, mounts=ours.mounts, placement=Placement(name=""))
    client = docker.from_env()
    by_api = client.containers.create(**ours.sdk())
    argv = ["docker", "create", *card.argv()[3:]]
    made = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    by_line = client.containers.get(made)
    try:
        api = container.effective(by_api.attrs)
        assert api == container.effective(by_line.attrs)
        wanted = cell.chip.container
        assert [device["PathOnHost"] for device in api["Devices"] or ()] == [
            d.partition(":")[0] for d in wanted.devices
        ]
        assert set(wanted.mounts) <= set(api["Binds"] or ())
        assert {f"{name}={value}" for name, value in wanted.env.items()} <= set(api["Env"])
        assert bool(api["Privileged"]) is wanted.privileged
    finally:
        by_api.remove()
        by_line.remove()
