"""The table of chip vendors, vendors.json: flagrelease reads the same file as data."""

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
    """How a vendor's chips are asked for and addressed.

    Sources: the vendors' documentation, FlagGems' backends, FlagRelease's image names."""

    query: tuple[str, ...]
    """The command that prints device and driver."""
    device: str | None
    """Regular expression; its first group is the device's name in what `query` prints. None: not known."""
    driver: str | None
    """Regular expression; its first group is the driver's version. None: not known, or there is no driver."""
    torch_device: str
    """torch's device type. Vendors that imitate CUDA share `cuda`, so it does not identify the vendor."""
    visible: str | None
    """The environment variable that limits a process to some of the chips. None: not known, or there is none."""

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Vendor:
        """Further keys of a row are for flagrelease, and ignored here."""
        return cls(
            query=tuple(row["query"]),
            device=row["device"],
            driver=row["driver"],
            torch_device=row["torch_device"],
            visible=row["visible"],
        )


@cache
def vendors() -> Mapping[str, Vendor]:
    """By FlagGems' vendor name; `cpu`, which FlagGems has no backend for, is the host itself."""
    return {name: Vendor.from_json(row) for name, row in json.loads(TABLE.read_text(encoding="utf-8")).items()}
