"""The table of vendors: what a vendor's tool prints becomes a row of the card, and what it does not print as well."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import support.served_cell as given
from flagrelease.config.vendors import VENDORS
from flagrelease.contract.code_version import PACKAGE
from flagrelease.ports.container_runner import Host
from flagrelease.stages.smoke import run as smoke
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
        ("metax", "MetaX C550\nKernel Mode Driver Version: 3.0.11\n", ("Driver", "3.0.11")),
        ("cpu", "Architecture: x86_64\nModel name:          AMD EPYC 9654\n", ("Processor", "AMD EPYC 9654")),
        ("metax", "no devices\n", ("Driver", "")),
        ("enflame", "Driver Version: 1.2\n", ("Driver", "")),
    ],
)
def test_what_a_tool_prints_is_a_row(vendor: str, printed: str, row: tuple[str, str]) -> None:
    assert VENDORS[vendor].row(printed) == row


def test_every_entry_can_be_used() -> None:
    for vendor in VENDORS.values():
        assert vendor.query
        for pattern in filter(None, (vendor.device, vendor.driver)):
            assert re.compile(pattern).groups == 1


def test_nothing_else_knows_a_vendor_by_name() -> None:
    compared = re.compile(r"""vendor\s*(?:==|!=|in)\s*[(\[{]?\s*["']""")
    for path in (*PACKAGE.rglob("*.py"), *(given.ROOT / "templates").rglob("*.*")):
        assert not compared.search(path.read_text()), f"{path.name}: that is for a property of Vendor"


class Machine:
    """A runner and a command port, on a host whose vendor's tool prints `printed`."""

    def __init__(self, printed: str) -> None:
        self.printed, self.asked = printed, ""
        self.runner = self

    def version(self) -> Host:
        return Host(name="Docker Engine", version="28", os="Debian", kernel="6.1")

    def command(self, argv: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        self.asked = " ".join(argv)
        return subprocess.CompletedProcess(argv, 0, stdout=self.printed)


def shown(tmp_path: Path, host: Machine, progress: Seen) -> dict[str, str]:
    ports: Any = host
    context = replace(given.context(tmp_path), ports=ports, progress=progress)
    return smoke.environment(given.job(given.cell("metax/qwen3-8b")), context)


def test_a_driver_that_is_not_found_is_said_on_the_card_and_in_the_run(tmp_path: Path) -> None:
    host, progress = Machine("Kernel Mode Driver Version: 3.0.11\n"), Seen()
    assert shown(tmp_path, host, progress)["Driver"] == "3.0.11"
    assert (host.asked, progress.notes) == ("mx-smi", [])
    assert shown(tmp_path, Machine("mx-smi has changed"), progress)["Driver"] == "not found in the output of mx-smi"
    assert progress.notes == ["driver of metax: not found in the output of mx-smi; the card says so"]
