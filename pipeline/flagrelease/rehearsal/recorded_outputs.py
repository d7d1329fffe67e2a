"""What vendors' tools print, as recorded or published: recorded/README.md has the sources."""

from __future__ import annotations

from importlib import resources


def of(chip: str, vendor: str) -> str:
    """The output for a chip, or else for one of its vendor's; empty if there is none."""
    folder = resources.files("flagrelease.rehearsal") / "recorded"
    found = {entry.name: entry for entry in folder.iterdir()}
    names = [f"{chip}.txt", f"{vendor}.txt", *sorted(name for name in found if name.startswith(f"{vendor}-"))]
    return next((found[name].read_text() for name in names if name in found), "")
