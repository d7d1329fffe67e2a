"""Aligned plain-text tables."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def aligned(heading: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """`rows` under `heading`, columns padded to their widest cell; `right` has the indices of right-aligned columns."""
    table = [list(heading), *[list(row) for row in rows]]
    widths = [max(_width(row[column]) for row in table) for column in range(len(heading))]
    lines = []
    for row in table:
        cells = [_pad(text, widths[n], n in right) for n, text in enumerate(row)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
