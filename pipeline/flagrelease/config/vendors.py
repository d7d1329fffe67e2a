"""The table of chip vendors, read from flagkernels/vendors.json, which flagkernels reads as well."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

TABLE = Path(__file__).parents[2] / "flagkernels" / "vendors.json"
"""Shared as data because neither package imports the other."""


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """A chip vendor. The keys of VENDORS are FlagGems' names."""

    query: tuple[str, ...]
    """The command that prints the device and its driver."""
    device: str | None
    """Regular expression for the device's name in the output; null if the output is not known."""
    driver: str | None
    """Regular expression for the driver's version; null if there is none or the output is not known."""
    torch_device: str
    """PyTorch's name for the device."""
    visible: str | None
    """The environment variable that restricts the devices of a process; null if there is none."""

    @property
    def on_host(self) -> bool:
        """Whether it is the host's processor, where servers share the host's memory and a long prompt takes minutes."""
        return self.torch_device == "cpu"

    def row(self, printed: str) -> tuple[str, str]:
        """The card's table row for the query's output `printed`: title and value, empty if it was not found."""
        title, pattern = ("Processor", self.device) if self.on_host else ("Driver", self.driver)
        match = re.search(pattern, printed, re.MULTILINE) if pattern else None
        return title, match.group(1).strip() if match else ""


VENDORS: Mapping[str, Vendor] = msgspec.json.decode(TABLE.read_bytes(), type=dict[str, Vendor])
