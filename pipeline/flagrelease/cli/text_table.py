"""Aligned plain-text tables."""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

_NARROWEST = 24
"""Columns that the last column needs at least; with fewer, it gets lines of its own."""
_INDENT = 4
NARROWEST_TERMINAL = 40
"""Columns of the narrowest terminal that lines are broken for."""


def terminal_width() -> int | None:
    """The columns of the terminal on stdout; None for a file or a pipe, whose lines are never broken."""
    return max(NARROWEST_TERMINAL, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None


def aligned(
    heading: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[int] = (),
    width: int | None = None,
    cut: bool = False,
) -> str:
    """`rows` under `heading`, columns padded to their widest cell; `right` has the indices of right-aligned columns.

    With a `width`, the last column is broken into as many lines as it needs to stay within it or, with `cut`, ends in
    an ellipsis. If the others are wider than that, their cells follow each other without columns.
    """
    table = [list(heading), *[list(row) for row in rows]]
    widths = [max(_width(row[column]) for row in table) for column in range(len(heading))]
    start = sum(widths[:-1]) + 2 * len(widths[:-1])
    below = width is not None and width - start < min(_NARROWEST, widths[-1])
    flows = width is not None and width < start - 2
    lines = []
    for row in table:
        cells = [_pad(text, widths[n], n in right) for n, text in enumerate(row[:-1])]
        if width is None:
            cells.append(_pad(row[-1], widths[-1], len(row) - 1 in right))
            lines.append("  ".join(cells).rstrip())
            continue
        space = width - (_INDENT if below else start)
        parts = [_cut(row[-1], space)] if cut else _broken(row[-1], space)
        if below:
            head = "  ".join(text for text in row[:-1] if text) if flows else "  ".join(cells).rstrip()
            lines += [wrapped(head, width)] if head else []
            lines += [" " * _INDENT + part for part in parts if part]
            continue
        lines.append("  ".join([*cells, parts[0]]).rstrip())
        lines += [" " * start + part for part in parts[1:]]
    return "\n".join(lines)


def figures(heading: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int], width: int | None) -> str:
    """An aligned table of figures; if it is wider than `width`, a line for each cell that is not empty."""
    table = aligned(heading, rows, right=right)
    if width is None or max(map(_width, table.splitlines())) <= width:
        return table
    lines = []
    for row in rows:
        given = [f"{name}: {text}" for name, text in zip(heading, row, strict=True) if text]
        lines += [wrapped(text if number == 0 else f"  {text}", width) for number, text in enumerate(given)]
    return "\n".join(lines)


def wrapped(text: str, width: int | None, indent: int = _INDENT) -> str:
    """`text` in lines of at most `width` columns, those after the first indented."""
    if width is None or _width(text) <= width:
        return text
    lead = text[: len(text) - len(text.lstrip())]
    parts = _broken(text.strip(), width - indent, first=width - len(lead))
    return f"\n{' ' * indent}".join([lead + parts[0].rstrip(), *(part.rstrip() for part in parts[1:])])


def counts(states: Iterable[str], order: Sequence[str]) -> str:
    """`1 red, 3 blocked`: how many of each state, in this order; the others follow."""
    counted = Counter(states)
    names = [*order, *sorted(counted.keys() - set(order))]
    return ", ".join(f"{counted[name]} {name}" for name in names if counted[name])


def _cut(text: str, space: int) -> str:
    """`text` in one line of at most `space` columns."""
    if _width(text) <= space:
        return text
    while text and _width(text) > space - 1:
        text = text[:-1]
    return f"{text.rstrip()}…"


def _broken(text: str, space: int, *, first: int | None = None) -> list[str]:
    """`text` in lines of at most `space` columns, or `first` for the first one, broken at blanks and, in words that are
    longer, anywhere."""

    def room() -> int:
        return space if first is None or len(lines) > 1 else first

    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if _width(joined) <= room():
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for char in word:
            if _width(lines[-1] + char) > max(room(), 2):
                lines.append("")
            lines[-1] += char
    return lines


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
