"""The table of vendors: what a vendor's tool prints becomes a row of the card, and what it does not print as well."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import support.served_cell as given
from flagrelease.config.vendors import VENDORS
from flagrelease.contract.code_version import PACKAGE
from flagrelease.ports.container_runner import Host
from flagrelease.recipe.device_check import Found
from flagrelease.stages.smoke import run as smoke
from support.contexts import Executing, served
from support.hub_cases import Seen


@pytest.mark.parametrize(
    ("vendor", "printed", "row"),
    [
        ("nvidia", "NVIDIA H100 80GB HBM3, 570.86.15\n", ("Driver", "570.86.15")),
        (
            "nvidia",
            "| NVIDIA-SMI 570.86.15    Driver Version: 570.86.15    CUDA Version: 12.8 |",
            ("Driver", "570.86.15"),
        ),
        ("metax", "| 0 MetaX C550 |\nKernel Mode Driver Version: 3.0.11\n", ("Driver", "3.0.11")),
        ("cpu", "Architecture: x86_64\nModel name:          AMD EPYC 9654\n", ("Processor", "AMD EPYC 9654")),
        ("metax", "no devices\n", ("Driver", "")),
        ("enflame", "Driver Version: 1.2\n", ("Driver", "")),
        ("sunrise", "Driver Version: 1.2\n", ("Driver", "")),
    ],
)
def test_what_a_tool_prints_is_a_row(vendor: str, printed: str, row: tuple[str, str]) -> None:
    assert VENDORS[vendor].row(printed) == row


def test_every_entry_can_be_used() -> None:
    for vendor in VENDORS.values():
        assert vendor.query
        for pattern in filter(None, (vendor.device, vendor.driver, vendor.memory)):
            assert re.compile(pattern).groups == 1


def test_nothing_else_knows_a_vendor_by_name() -> None:
    compared = re.compile(r"""vendor\s*(?:==|!=|in)\s*[(\[{]?\s*["']""")
    for path in (*PACKAGE.rglob("*.py"), *(given.ROOT / "templates").rglob("*.*")):
        assert not compared.search(path.read_text()), f"{path.name}: that is for a property of Vendor"


class Machine:
    """A runner on a host."""

    def __init__(self) -> None:
        self.runner = self

    def version(self) -> Host:
        return Host(name="Docker Engine", version="28", os="Debian", kernel="6.1")


def shown(tmp_path: Path, cell: str, progress: Seen, found: Found | None = None, printed: str = "") -> dict[str, str]:
    """The card's table of the machine, whose container sees `found`, and in which programs print `printed`."""
    ports: Any = Machine()
    context = replace(given.context(tmp_path), ports=ports, progress=progress)
    server = replace(served(Executing(lambda argv: printed if "lscpu" in argv else MEMORY)), found=found)
    return smoke.environment(given.job(given.cell(cell)), context, server)


MEMORY = "MemTotal:       16384000 kB\nMemFree: 1 kB\n"
METAX = Found(names=("MetaX C550",) * 8, memory=64.0, driver="3.8.30")


def test_the_table_has_the_devices_that_were_found(tmp_path: Path) -> None:
    progress = Seen()
    rows = shown(tmp_path, "metax/qwen3-8b", progress, METAX)
    assert rows["Accelerator"] == "8 × MetaX C550, 64.0 GiB each"
    assert rows["Driver"] == "3.8.30"
    assert progress.notes == []


def test_a_driver_that_is_not_found_is_said_on_the_card_and_in_the_run(tmp_path: Path) -> None:
    progress = Seen()
    rows = shown(tmp_path, "metax/qwen3-8b", progress, replace(METAX, driver=""))
    assert rows["Driver"] == "not found in the output of mx-smi"
    assert progress.notes == ["driver of metax: not found in the output of mx-smi; the card says so"]


def test_of_a_processor_the_table_has_what_lscpu_prints(tmp_path: Path) -> None:
    printed = "Architecture:  x86_64\nCPU(s):   16\nModel name:  AMD EPYC 9654\n= 0\n"
    rows = shown(tmp_path, "cpu/smollm2-135m", Seen(), printed=printed)
    assert {name: rows[name] for name in ("Processor", "Architecture", "Cores", "Memory")} == {
        "Processor": "AMD EPYC 9654",
        "Architecture": "x86_64",
        "Cores": "16",
        "Memory": "15.6 GiB",
    }
    assert "Accelerator" not in rows
    assert "Driver" not in rows
