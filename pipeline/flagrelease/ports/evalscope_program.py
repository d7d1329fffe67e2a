"""Find the evalscope program, which the harness and the load generator run from a separate Python environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flagrelease.ports.command import Command

__all__ = ["PROGRAM", "VERSION", "lacking", "outdated"]

PROGRAM = "FLAGRELEASE_EVALSCOPE"
"""The environment variable that holds the path of the program."""

VERSION = "1.14"
"""The version whose output files can be read."""


def lacking(env: Mapping[str, str]) -> tuple[str, str] | None:
    """The problem and the hint if the program is not available; else None."""
    program = env.get(PROGRAM, "")
    if not program:
        return (
            f"{PROGRAM} is not set",
            f"install evalscope 1.14.1 in a separate environment and set {PROGRAM} to the program",
        )
    if not Path(program).is_file():
        return f"{PROGRAM} is {program}, which does not exist", f"set {PROGRAM} to the program `evalscope`"
    return None


def outdated(command: Command, env: Mapping[str, str]) -> tuple[str, str] | None:
    """The problem and the hint if the program has another version; else None."""
    program = env[PROGRAM]
    output = command([program, "--version"], seconds=60.0, check=False).stdout.strip()
    if re.search(rf"\b{re.escape(VERSION)}\.", output):
        return None
    hint = f"install evalscope {VERSION} in a separate environment: only the files of that version can be read"
    return f"{program} is {output[-40:] or 'not evalscope'}", hint
