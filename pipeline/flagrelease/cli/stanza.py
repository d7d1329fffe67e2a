"""Write a stanza into the text of matrix.yaml, which keeps its comments and order. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from flagrelease.errors import ConfigError

_WIDTH = 120


def stanza(name: str, values: Mapping[str, Any]) -> str:
    """The lines of a stanza below `chips:` or `models:`. What is None or empty is left out."""
    kept = _kept(values)
    text: str = yaml.safe_dump({name: kept}, sort_keys=False, allow_unicode=True, width=_WIDTH, default_flow_style=None)
    return "".join(f"  {line}\n" for line in text.splitlines())


def _kept(values: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: _kept(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    return {key: value for key, value in kept.items() if value not in (None, "", [], {})}


def inserted(text: str, section: str, new: str) -> str:
    """`text` with the stanza `new` at the end of a section, before the comments that belong to the next one.

    Raises ConfigError if the section is not written in lines of its own.
    """
    lines = text.splitlines(keepends=True)
    start = next((number for number, line in enumerate(lines) if re.match(rf"{section}:(\s|$)", line)), None)
    if start is None:
        raise ConfigError(f"the matrix has no {section}", hint=f"add `{section}:` on a line of its own")
    if re.fullmatch(rf"{section}:\s*(#.*)?\n?", lines[start]) is None:
        raise ConfigError(f"{section} is written on one line", hint="write each of its entries on lines of its own")
    end = next((n for n in range(start + 1, len(lines)) if re.match(r"[^\s#]", lines[n])), len(lines))
    while end > start + 1 and not re.match(r"\s+\S", lines[end - 1]):  # blank lines, and comments at the margin
        end -= 1
    if not lines[end - 1].endswith("\n"):
        lines[end - 1] += "\n"
    apart = "\n" if end > start + 1 else ""
    return "".join([*lines[:end], apart + new, *lines[end:]])
