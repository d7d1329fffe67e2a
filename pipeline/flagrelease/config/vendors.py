"""What is known of each chip vendor. The data is flagkernels/vendors.json, which the chip side reads as well."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

TABLE = Path(__file__).parents[2] / "flagkernels" / "vendors.json"
"""As data: neither package imports the other."""


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """One vendor, by FlagGems' name for it."""

    query: tuple[str, ...]
    """The command that prints the device and its driver."""
    device: str | None
    """Finds the device's name in what the query prints; null where its output is not known."""
    driver: str | None
    """Finds the driver's version there; null where there is none or its output is not known."""
    torch_device: str
    """PyTorch's name for the device."""
    visible: str | None
    """The environment variable that says which devices a process may use."""

    @property
    def on_host(self) -> bool:
        """Whether it computes on the host's processor: several servers share the host's memory, and a long prompt
        takes minutes."""
        return self.torch_device == "cpu"

    def row(self, printed: str) -> tuple[str, str]:
        """The row of the card's table that the query is asked for; its value is empty where it is not in `printed`."""
        title, pattern = ("Processor", self.device) if self.on_host else ("Driver", self.driver)
        found = re.search(pattern, printed, re.MULTILINE) if pattern else None
        return title, found.group(1).strip() if found else ""


VENDORS: Mapping[str, Vendor] = msgspec.json.decode(TABLE.read_bytes(), type=dict[str, Vendor])
