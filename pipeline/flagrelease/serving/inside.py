"""Execute programs in a served container."""

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
    """What was seen instead of what must be."""


@dataclass(frozen=True, kw_only=True)
class Inside:
    """A served container and where it came from."""

    cell: Cell
    context: Context
    server: Served
    image: results.Image
    weights: results.Weights

    def execute(self, *argv: str) -> str:
        code, printed = self.server.running.execute(argv, seconds=EXEC_SECONDS)
        if code != 0:
            raise CheckFailed(f"`{argv[0]}` in the container ended with {code}: {printed.strip()[-200:]}")
        return printed

    def packages(self) -> Mapping[str, str]:
        return python_probe.read(self.execute("python3", "-c", python_probe.PROGRAM)).packages
