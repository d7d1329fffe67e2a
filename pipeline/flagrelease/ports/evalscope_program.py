"""Where this machine has evalscope, in a Python environment of its own: the harness and the load generator run it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flagrelease.ports.command import Command

__all__ = ["PROGRAM", "VERSION", "lacking", "outdated"]

PROGRAM = "FLAGRELEASE_EVALSCOPE"
"""The variable that names the program."""

VERSION = "1.14"
"""The version whose files are read."""


def lacking(env: Mapping[str, str]) -> tuple[str, str] | None:
    """What this machine lacks, and what to do about it."""
    program = env.get(PROGRAM, "")
    if not program:
        return (
            f"{PROGRAM} is not set",
            f"install evalscope 1.14.1 in an environment of its own and set {PROGRAM} to the program",
        )
    if not Path(program).is_file():
        return f"{PROGRAM} names {program}, which is not there", f"set {PROGRAM} to the program `evalscope`"
    return None


def outdated(command: Command, env: Mapping[str, str]) -> tuple[str, str] | None:
    """What is wrong with the program that is there, and what to do about it."""
    program = env[PROGRAM]
    said = command([program, "--version"], seconds=60.0, check=False).stdout.strip()
    if re.search(rf"\b{re.escape(VERSION)}\.", said):
        return None
    hint = f"install evalscope {VERSION} in an environment of its own: its files are read as that writes them"
    return f"{program} is {said[-40:] or 'no evalscope'}", hint
