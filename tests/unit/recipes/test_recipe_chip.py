"""A chip is a stanza of matrix.yaml; a vendor that is not known yet is an entry of vendors.json before that."""

from __future__ import annotations

import pytest

from flagrelease.config import vendors
from flagrelease.errors import ConfigError
from support.newcomer_project import DIGEST, NewcomerProject, recipe

STANZA = """\
  NAME:
    vendor: VENDOR
    device: {name: A chip, code: chip001}
    base: registry.example:5000/base-chip:1.0
    components: {flagscale: 0.8.0, flaggems: 5.0.2}
    container: {devices: [/dev/chip0]}
"""
ON_IT = "per_chip:\n      NAME: {serve: {name: smollm2, engine: vllm, convert: safetensors}, profile: small}\n"


def added(project: NewcomerProject, name: str, vendor: str) -> str:
    project.add("chips", STANZA.replace("NAME", name).replace("VENDOR", vendor))
    project.replace("per_chip:\n", ON_IT.replace("NAME", name))
    return f"{name}/smollm2-135m"


def test_a_chip_is_a_stanza(project: NewcomerProject) -> None:
    assert "matrix.yaml" in recipe("a chip")
    assert "`flagrelease lock CHIP/MODEL`" in recipe("a chip"), "without a cell, it pins every chip and model"
    cell = added(project, "ascend-910", "ascend")
    lock = project.relock(cell)
    assert lock.chips["ascend-910"].digest == DIGEST
    assert "flag-gems==5.0.2" in lock.wheels["ascend-910-vllm"].inputs
    plan = project.plan(cell)
    assert not plan.blocked
    assert {step.action for step in plan.steps} == {"run"}
    assert plan.cell.kernels.device == "npu"
    assert plan.cell.chip.device.query == "npu-smi info"
    assert not plan.cell.holds_both


def test_a_vendor_that_is_not_known_is_an_entry_of_the_table(
    project: NewcomerProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "flagkernels/vendors.json" in recipe("a chip")
    cell = added(project, "newchip", "newvendor")
    with pytest.raises(ConfigError, match="unknown vendor 'newvendor'"):
        project.plan(cell)
    driver = r"Driver:\s*(\S+)"
    entry = vendors.Vendor(
        query=("new-smi", "-q"), device=r"Name:\s*(.+)", driver=driver, torch_device="new", visible="NEW_DEVICES"
    )
    monkeypatch.setitem(vendors.VENDORS, "newvendor", entry)  # type: ignore[arg-type]
    project.relock(cell)
    plan = project.plan(cell)
    assert not plan.blocked
    assert (plan.cell.kernels.device, plan.cell.chip.device.query) == ("new", "new-smi -q")
    assert entry.row("Name: A\nDriver: 1.2\n") == ("Driver", "1.2")
