"""The options that steps share, from options.json, and numbers that are refused before any work begins."""

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
"""By option: `type`, `default`, `required`, `choices`, `help`; `matrix` is its name in matrix.yaml, which flagrelease
reads from here."""


@cache
def options() -> Mapping[str, Mapping[str, Any]]:
    """The table, by option."""
    table: dict[str, dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table


def add_option(parser: argparse.ArgumentParser, name: str, **more: Any) -> None:
    """Adds an option of the table; `more` is argparse's, and overrides the table where a step differs.

    Raises KeyError for an option that the table lacks."""
    row = {key: value for key, value in options()[name].items() if key != "matrix"}
    if "type" in row:
        row["type"] = _TYPES[row["type"]]
    parser.add_argument(name, **{**row, **more})


def at_least(least: int) -> Callable[[str], int]:
    """For argparse: a whole number that is no less than `least`."""

    def number(text: str) -> int:
        if not text.lstrip("-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
        return int(text)

    return number


def positive(text: str) -> float:
    """For argparse: a finite number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above zero")
    return value


_TYPES: Mapping[str, Callable[[str], Any]] = {
    "path": Path,
    "count": at_least(1),
    "count or 0": at_least(0),
    "positive": positive,
}
