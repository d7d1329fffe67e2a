"""The states of a cell. Imports nothing, so that `--help` can list them."""

from __future__ import annotations

STATES = (
    "running",
    "red",
    "rotten",
    "yanked",
    "inconclusive",
    "interrupted",
    "blocked",
    "partial",
    "new",
    "released",
    "excluded",
)
"""The states of a cell, in the order in which `status` shows them: first those that need somebody."""


def without_cell(cell: str, text: str) -> str:
    """`text` without the cell's name at its beginning, which is printed in front of it."""
    return text.removeprefix(f"{cell} is ").removeprefix(f"{cell} ")
