"""Write the tables of docs/chips.md, from matrix.yaml and the table of vendors; a test compares the page with them.

.venv/bin/python scripts/chips_page.py
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from flagrelease.config import matrix as matrices
from flagrelease.config.chip import UNKNOWN, Chip, Container
from flagrelease.config.vendors import VENDORS, Fact, Vendor
from flagrelease.recipe.container import ContainerRun, Placement

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/chips.md"
HEADER = "| {} | Fact | Value | Standing | Source or reason |\n| --- | --- | --- | --- | --- |\n"


def chips() -> str:
    """The table of the chips of matrix.yaml."""
    rows = (
        _row(name, fact, _chip_value(chip, fact), chip.facts[fact])
        for name, chip in matrices.load(ROOT / "matrix.yaml").chips.items()
        for fact in chip.facts
    )
    return HEADER.format("Chip") + "".join(rows)


def vendors() -> str:
    """The table of the vendors."""
    rows = (
        _row(name, fact, _vendor_value(vendor, fact), vendor.facts[fact])
        for name, vendor in VENDORS.items()
        for fact in vendor.facts
    )
    return HEADER.format("Vendor") + "".join(rows)


def _row(name: str, fact: str, value: str, said: Fact) -> str:
    kind = next(kind for kind in ("measured", "documented", "unknown") if getattr(said, kind))
    return f"| `{name}` | `{fact}` | {value} | {kind} | {getattr(said, kind)} |\n"


def _chip_value(chip: Chip, fact: str) -> str:
    device, parts = chip.device, chip.components
    values: Mapping[str, Iterable[str]] = {
        "device.name": [device.name],
        "device.code": [device.code],
        "device.reported": device.names,
        "device.memory": [f"{device.memory:g} GiB"] if device.memory else [],
        "device.driver": [device.driver] if device.driver else [],
        "base": [chip.base, f"Python {chip.python}"],
        "components": [f"FlagScale {parts.flagscale}", f"FlagGems {parts.flaggems}"],
        "container": _options(chip.container),
    }
    return _values(() if chip.base == UNKNOWN and fact == "base" else values[fact])


def _vendor_value(vendor: Vendor, fact: str) -> str:
    from flagrelease.config.chip import vendor_options

    name = next(name for name, each in VENDORS.items() if each is vendor)
    values: Mapping[str, Iterable[str]] = {
        "query": [" ".join(vendor.query)],
        "driver": [],
        "visible": [vendor.visible] if vendor.visible else [],
        "torch_device": [vendor.torch_device],
        "container": _options(vendor_options(name)),
    }
    return _values(values[fact])


def _options(flags: Container) -> tuple[str, ...]:
    """As on the command line, without what every container has."""
    run = ContainerRun(image="", command=(), mounts=(), env=flags.env, flags=flags, placement=Placement(name=""))
    return tuple(option for option in run.options() if not re.match(r"--publish", option))


def _values(parts: Iterable[str]) -> str:
    return " ".join(f"`{part}`" for part in parts if part != UNKNOWN) or "–"


def written(page: str) -> str:
    """The page with both tables as they should be."""
    for name, table in (("chips", chips()), ("vendors", vendors())):
        page = re.sub(rf"(?s)(<!-- {name} -->\n\n).*?(\n<!-- /{name} -->)", lambda m, t=table: m[1] + t + m[2], page)
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
