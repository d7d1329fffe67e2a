"""The table of chip vendors in vendors.json, which flagrelease reads as well."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["TABLE", "Vendor", "vendors"]

TABLE = Path(__file__).with_name("vendors.json")


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """How a vendor's chips are queried and addressed.

    Sources: the vendors' documentation, FlagGems' backends, FlagRelease's image names."""

    query: tuple[str, ...]
    """The command that prints the device's name and the driver's version."""
    device: str | None
    """Regular expression over the output of `query`; its first group is the device's name. None: unknown."""
    driver: str | None
    """Regular expression over the output of `query`; its first group is the driver's version. None: unknown or no
    driver."""
    torch_device: str
    """torch's device type. Several vendors report `cuda`, so it does not identify the vendor."""
    visible: str | None
    """The environment variable that limits a process to some of the chips. None: unknown or not supported."""

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Vendor:
        """Read a row of vendors.json; ignores the keys that only flagrelease uses."""
        return cls(
            query=tuple(row["query"]),
            device=row["device"],
            driver=row["driver"],
            torch_device=row["torch_device"],
            visible=row["visible"],
        )


@cache
def vendors() -> Mapping[str, Vendor]:
    """Vendors by FlagGems' vendor name; `cpu` is the host itself, for which FlagGems has no backend."""
    return {name: Vendor.from_json(row) for name, row in json.loads(TABLE.read_text(encoding="utf-8")).items()}
