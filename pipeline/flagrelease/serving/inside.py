"""Run programs inside the container of a served model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flagrelease.config.cell import Cell
from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.ports import python_probe
from flagrelease.serving.server import Served

EXEC_SECONDS = 300.0


class CheckFailed(Exception):
    """A check's requirement is not met; the message says what was observed instead."""


@dataclass(frozen=True, kw_only=True)
class Inside:
    """The container of a served model, with the image and the weights it was started from."""

    cell: Cell
    context: Context
    server: Served
    image: results.Image
    weights: results.Weights

    def execute(self, *argv: str) -> str:
        """Run a program and return its output. Raises CheckFailed on a non-zero exit code."""
        code, printed = self.server.running.execute(argv, seconds=EXEC_SECONDS)
        if code != 0:
            raise CheckFailed(f"`{argv[0]}` in the container ended with {code}: {printed.strip()[-200:]}")
        return printed

    def packages(self) -> Mapping[str, str]:
        """The versions of the installed Python packages, by normalised name."""
        return python_probe.read(self.execute("python3", "-c", python_probe.PROGRAM)).packages
