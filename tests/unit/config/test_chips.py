"""The chips of the shipped matrix: every fact has a source or is left out, and a vendor's tool is understood."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from flagrelease.config import matrix as matrices
from flagrelease.config.chip import FACTS, UNKNOWN, Chip
from flagrelease.config.vendors import VENDORS, Fact
from flagrelease.recipe import device_check as check
from flagrelease.recipe.device_check import Found, Wanted
from flagrelease.serving import chip_proof

ROOT = Path(__file__).parents[3]
CHIPS = matrices.load(ROOT / "matrix.yaml").chips
SAMPLES = ROOT / "pipeline/flagrelease/rehearsal/recorded"
STACK = (
    *("nvidia-a100", "nvidia-h20", "nvidia-h100", "nvidia-h200", "metax", "ascend", "cambricon", "mthreads"),
    *("iluvatar", "kunlunxin", "hygon", "enflame", "tsingmicro", "sunrise", "zhenwu", "amd", "arm", "cpu"),
)

PRINTED = {
    "nvidia-a100": Found(names=("NVIDIA A100-SXM4-80GB",) * 2, memory=80.0, driver="535.104.05"),
    "nvidia-h20": Found(names=("NVIDIA H20",) * 2, memory=97871 / 1024, driver="550.54.15"),
    "nvidia-h100": Found(names=("NVIDIA H100 80GB HBM3",), memory=81559 / 1024, driver="580.159.04"),
    "nvidia-h200": Found(names=("NVIDIA H200",), memory=143771 / 1024, driver="580.159.04"),
    "metax": Found(names=("MetaX C550",) * 2, memory=64.0, driver="2.15.9"),
    "metax-sgpu": Found(names=("MetaX C500",) * 2, memory=64.0, driver="3.4.4"),
    "ascend": Found(names=("910B1",) * 2, memory=64.0, driver="24.1.0"),
    "cambricon": Found(names=("MLU370-X8",) * 2, memory=23374 / 1024, driver="5.10.13"),
    "mthreads": Found(names=("MTT S5000",) * 2, memory=80.0, driver="3.3.5-server"),
    "iluvatar": Found(names=("Iluvatar BI-V150", "Iluvatar BI-V150S"), memory=32.0, driver="4.1.0"),
    "kunlunxin": Found(names=("P800 OAM",) * 2, memory=96.0, driver="5.0.21.21"),
    "hygon": Found(names=("K100_AI",) * 2, memory=65520 / 1024, driver="6.3.27-V1.2.5"),
    "enflame": Found(names=("S60",), memory=49120 / 1024, driver="1.2.0.301"),
    "enflame-l300": Found(names=("Enflame L300",), memory=144.0, driver="1.7.2.14"),
    "sunrise": Found(names=("SR-SUN-S2-X1-PCIE",), memory=62847 / 1024),
    "zhenwu": Found(names=("alixpu",) * 2, memory=24.0, driver="1.0"),
    "amd": Found(names=("AMD Instinct MI300X",), memory=206141652992 / 1024**3, driver="6.12.12"),
}
OTHER_BOARD = {"cambricon", "hygon", "zhenwu", "metax-sgpu", "enflame-l300"}
"""Samples of another board than the chip's, whose reports are not public."""


def vendor_of(sample: str) -> str:
    name = sample if sample in CHIPS else sample.partition("-")[0]
    return CHIPS[name].vendor


def test_the_matrix_has_every_chip_of_the_stack() -> None:
    assert set(CHIPS) == set(STACK)


@pytest.mark.parametrize("name", STACK)
def test_what_is_left_out_has_a_reason_and_what_is_not_has_a_source(name: str) -> None:
    chip = CHIPS[name]
    if chip.vendor == "cpu":
        return
    values = {
        "device.memory": chip.device.memory,
        "device.driver": chip.device.driver,
        "device.code": chip.device.code if chip.device.code != UNKNOWN else None,
        "base": chip.base if chip.base != UNKNOWN else None,
        "components": None if chip.components.flaggems == "none" else chip.components,
    }
    for fact, value in values.items():
        if fact == "device.driver" and VENDORS[chip.vendor].on_host:
            continue
        assert fact in chip.facts, f"{name}: who says {fact}?"
        if fact != "components":
            assert bool(chip.facts[fact].unknown) == (not value), f"{name}: {fact} is either known or left out"
    assert set(chip.facts) <= set(FACTS)


@pytest.mark.parametrize("name", VENDORS)
def test_a_vendors_entry_has_sources(name: str) -> None:
    vendor = VENDORS[name]
    assert {"query", "container"} <= set(vendor.facts)
    assert bool(vendor.container) == (not vendor.facts["container"].unknown) or vendor.on_host
    if vendor.device is None:
        assert vendor.facts["query"].unknown
    if vendor.driver is None and vendor.device and not vendor.on_host:
        assert vendor.facts["driver"].unknown
    if vendor.visible is None and not vendor.on_host:
        assert vendor.facts["visible"].unknown
    if vendor.visible is not None:
        assert not vendor.facts["visible"].unknown


def test_a_fact_has_one_kind_of_source() -> None:
    for wrong in ({}, {"measured": "a", "documented": "b"}):
        with pytest.raises(ValueError, match="one of measured, documented and unknown"):
            Fact(**wrong)


@pytest.mark.parametrize("sample", PRINTED)
def test_what_a_vendors_tool_prints_is_understood(sample: str) -> None:
    found = check.read(chip_proof.patterns(VENDORS[vendor_of(sample)]), (SAMPLES / f"{sample}.txt").read_text())
    assert found == PRINTED[sample]
    if sample in OTHER_BOARD:
        assert check.refusals(wanted(CHIPS[sample if sample in CHIPS else sample.partition("-")[0]]), found)
    else:
        anyhow = Wanted(names=CHIPS[sample].device.names, title="", memory=CHIPS[sample].device.memory)
        assert not check.refusals(anyhow, found)


def test_every_sample_is_read_and_every_tool_that_can_be_has_one() -> None:
    assert {path.stem for path in SAMPLES.glob("*.txt")} == set(PRINTED)
    read = {vendor_of(sample) for sample in PRINTED}
    assert {name for name, vendor in VENDORS.items() if vendor.device and not vendor.on_host} - read == {"tsingmicro"}
    listed = (SAMPLES / "README.md").read_text()
    assert all(sample in listed for sample in PRINTED), "the README says where each is from"


@pytest.mark.parametrize("name", STACK)
def test_no_sample_is_that_of_another_chip(name: str) -> None:
    """A glob that is too wide would release for one chip what was measured on another."""
    chip = CHIPS[name]
    if VENDORS[chip.vendor].on_host:
        return
    anyhow = Wanted(names=chip.device.names, title="", memory=None)
    fitting = {sample for sample, found in PRINTED.items() if not check.refusals(anyhow, found)}
    assert fitting <= {name}


def wanted(chip: Chip) -> Wanted:
    device = chip.device
    return Wanted(names=device.names, title=device.name, memory=device.memory, driver=device.driver)


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ({">=570.86": True, ">=580.160": False, "<580": False, ">580, <590": True}, "580.159.04"),
        ({">=6.3.30": True, "==6.3": True, ">6.3.30": False, "<=6.3.30": True}, "6.3.30-V1.4.1a"),
        ({">=5.2": True, "==5.2.0": True, "==5.20": False}, "5.2.0-server"),
        ({">=1": False}, "unreadable"),
    ],
)
def test_driver_ranges(version: dict[str, bool], fits: str) -> None:
    assert {text: check.in_range(text, fits) for text in version} == version


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("NVIDIA H100", "NVIDIA H100 80GB HBM3", True),
        ("NVIDIA H100", "nvidia  h100", True),
        ("NVIDIA H20", "NVIDIA H200", False),
        ("NVIDIA H200", "NVIDIA H20", False),
        ("910B*", "910B3", True),
        ("910B", "910B3", False),
        ("*ZW810*", "PPU-ZW810E", True),
    ],
)
def test_names_are_globs_of_the_name_or_its_first_words(pattern: str, name: str, fits: bool) -> None:
    assert check.named(pattern, name) is fits


@pytest.mark.parametrize(
    ("found", "reasons"),
    [
        (Found(names=("H200",), memory=140.0, driver="580.1"), []),
        (Found(names=(), driver="580.1"), ["no device was found"]),
        (Found(names=("H20",)), ["the device here is H20, the release is for NVIDIA H200 (H200)"]),
        (Found(names=("H200", "H20")), []),
        (Found(names=("H200",), driver="550.1"), ["the driver here is 550.1, the release needs >=570"]),
        (Found(names=("H200",), memory=70.2), ["a device here has 70.2 GiB of memory, the release needs 140 GiB"]),
    ],
)
def test_differences_are_said_with_both_sides(found: Found, reasons: list[str]) -> None:
    assert check.refusals(Wanted(names=("H200",), title="NVIDIA H200", memory=140, driver=">=570"), found) == reasons


def test_fewer_devices_are_refused() -> None:
    two = Wanted(names=("H200",), title="NVIDIA H200", count=2)
    assert check.refusals(two, Found(names=("H200", "H20"))) == ["1 × NVIDIA H200 here, the release needs 2"]
    assert not check.refusals(two, Found(names=("H200", "H200")))


def test_the_page_of_chips_has_every_fact() -> None:
    spec = importlib.util.spec_from_file_location("chips_page", ROOT / "scripts/chips_page.py")
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    shown = page.PAGE.read_text()
    assert page.written(shown) == shown, "run `.venv/bin/python scripts/chips_page.py`"
    assert shown.count("\n| `") == sum(len(each.facts) for each in (*CHIPS.values(), *VENDORS.values()))
