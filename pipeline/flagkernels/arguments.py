"""Options shared by the steps, from options.json, and argparse types that reject bad numbers."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["TABLE", "add_option", "at_least", "options", "positive"]

TABLE = Path(__file__).with_name("options.json")
"""Option → `type`, `default`, `required`, `choices`, `help`; `matrix`: the option's name in matrix.yaml, which
flagrelease reads from this file."""


@cache
def options() -> Mapping[str, Mapping[str, Any]]:
    """The rows of options.json, by option."""
    table: dict[str, dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table


def add_option(parser: argparse.ArgumentParser, name: str, **more: Any) -> None:
    """Add an option of the table to the parser; `more` are argparse's keywords, which override the table's.

    Raises KeyError for an option that is not in the table."""
    row = {key: value for key, value in options()[name].items() if key != "matrix"}
    if "type" in row:
        row["type"] = _TYPES[row["type"]]
    parser.add_argument(name, **{**row, **more})


def at_least(least: int) -> Callable[[str], int]:
    """An argparse type: an integer >= `least`."""

    def number(text: str) -> int:
        if not text.lstrip("-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer >= {least}")
        return int(text)

    return number


def positive(text: str) -> float:
    """An argparse type: a finite number > 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number > 0")
    return value


_TYPES: Mapping[str, Callable[[str], Any]] = {
    "path": Path,
    "count": at_least(1),
    "count or 0": at_least(0),
    "positive": positive,
}
