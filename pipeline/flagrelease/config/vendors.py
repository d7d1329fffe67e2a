"""The table of chip vendors: how their tools report devices (flagkernels/vendors.json, which flagkernels reads too),
and which options of `docker run` give access to them, with the sources (vendor_facts.json)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

TABLE = Path(__file__).parents[2] / "flagkernels" / "vendors.json"
"""Shared as data because neither package imports the other."""
FACTS = Path(__file__).with_name("vendor_facts.json")
"""Not in TABLE, which flagkernels ships: a corrected source would make operators be tuned again."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Who says that a fact is so; one of the three."""

    measured: str = ""
    """Where it was measured."""
    documented: str = ""
    """The public document that says so."""
    unknown: str = ""
    """Why it is not known; then the fact is left out, and nothing is compared."""

    def __post_init__(self) -> None:
        if len(list(filter(None, (self.measured, self.documented, self.unknown)))) != 1:
            raise ValueError("write one of measured, documented and unknown, with its source or reason")


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """A chip vendor. The keys of VENDORS are FlagGems' names."""

    query: tuple[str, ...]
    """The command that prints the devices and their driver."""
    device: str | None
    """Regular expression for a device's name in the output, one match for each; null if the output is not known."""
    driver: str | None
    """Regular expression for the driver's version; null if there is none or the output is not known."""
    memory: str | None = None
    """Regular expression for a device's memory, one match for each; null if the output is not known."""
    memory_unit: Literal["MiB", "B"] = "MiB"
    """Of the memory in the output."""
    torch_device: str
    """PyTorch's name for the device."""
    visible: str | None
    """The environment variable that restricts the devices of a process; null if there is none."""
    container: Mapping[str, Any] = field(default_factory=dict)
    """The options of `docker run` that give access to the devices, as in matrix.yaml."""
    facts: Mapping[str, Fact] = field(default_factory=dict)
    """By key of this entry, who says so."""

    @property
    def on_host(self) -> bool:
        """Whether it is the host's processor, where servers share the host's memory and a long prompt takes minutes."""
        return self.torch_device == "cpu"

    def row(self, printed: str) -> tuple[str, str]:
        """The card's table row for the query's output `printed`: title and value, empty if it was not found."""
        title, pattern = ("Processor", self.device) if self.on_host else ("Driver", self.driver)
        match = re.search(pattern, printed, re.MULTILINE) if pattern else None
        return title, match.group(1).strip() if match else ""


def _table() -> dict[str, Vendor]:
    facts = msgspec.json.decode(FACTS.read_bytes())
    rows = msgspec.json.decode(TABLE.read_bytes())
    return msgspec.convert({name: {**row, **facts.get(name, {})} for name, row in rows.items()}, dict[str, Vendor])


VENDORS: Mapping[str, Vendor] = _table()
