"""A stand-in for the vendor's query tool, which prints a recorded output, where this machine does not have the tool."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from flagrelease.config.cell import Cell
from flagrelease.ports.command import Command, Completed
from flagrelease.rehearsal.report import LeftOut
from flagrelease.store.files import write_atomic

RECORDED: Mapping[str, str] = {
    # The values of published cards of Qwen3-8B on MetaX, in the lines that the vendor's pattern reads.
    "metax": "MACA Version: 3.0.0.8\nKernel Mode Driver Version: 2.3.0\nMetaX C550\n",
    # docs/proofs/h100
    "nvidia": "NVIDIA H100 80GB HBM3, 580.159.04\n",
}
"""By vendor, what its query tool prints of device and driver."""


def standing_in(cell: Cell, folder: Path, command: Command) -> tuple[Command, tuple[LeftOut, ...]]:
    """`command` with the vendor's query tool on its path, and what is left out by it."""
    name = shlex.split(cell.chip.device.query)[0]
    if "/" in name or shutil.which(name) is not None:
        return command, ()
    recorded = RECORDED.get(cell.chip.vendor, "")
    write_atomic(folder / name, f"#!/bin/sh\ncat <<'OUTPUT'\n{recorded}OUTPUT\n".encode(), mode=0o755)
    what = f"{name}, which asks for device and driver: a stand-in"
    told = "that prints a recorded output" if recorded else "that prints nothing: no output of it is recorded"
    why = "this machine does not have it"
    return _Found(command, folder), (LeftOut(part="smoke", what=f"{what} {told}", why=why),)


class _Found:
    """A Command that also finds the programs in `folder`."""

    def __init__(self, command: Command, folder: Path) -> None:
        self._command = command
        self._folder = folder

    def __call__(
        self,
        argv: Sequence[str | Path],
        *,
        seconds: float,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        hint: str = "",
    ) -> Completed:
        path = (env or {}).get("PATH") or os.environ.get("PATH", os.defpath)
        found = {**(env or {}), "PATH": f"{path}:{self._folder}"}
        return self._command(argv, seconds=seconds, cwd=cwd, env=found, check=check, hint=hint)
