"""What starts programs for us on a chip's host: Docker Engine, or plain processes where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flagrelease.recipe.container import ContainerRun, RunnerKind

RUN_LABEL = "flagrelease.run"
CELL_LABEL = "flagrelease.cell"
WORKSPACE_LABEL = "flagrelease.workspace"

Moved = Callable[[int, int], None]
"""Told how many bytes of how many went over the wire."""


def labels(run_id: str, cell: str, workspace: Path) -> dict[str, str]:
    """What all that we start carries, so that what a killed run leaves can be found."""
    return {RUN_LABEL: run_id, CELL_LABEL: cell, WORKSPACE_LABEL: str(workspace.resolve())}


@dataclass(frozen=True, kw_only=True)
class Host:
    """Where programs are started. `name` and `version` are the runner's, `os` and `kernel` the host's."""

    name: str
    version: str
    os: str
    kernel: str


@dataclass(frozen=True, kw_only=True)
class LocalImage:
    """An image that is on the host. `size` is unpacked bytes; `layers` are digests of unpacked layers, in order."""

    id: str
    size: int
    layers: tuple[str, ...] = ()
    labels: Mapping[str, str]
    digests: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A program that is not running any more."""

    code: int
    out_of_memory: bool
    error: str


class Running(Protocol):
    """A container, or a process that stands in for one."""

    @property
    def id(self) -> str: ...
    def port(self, inside: int) -> int:
        """The host's port that `inside` is reached at."""
        ...

    def ended(self) -> Ended | None:
        """Nothing while it runs."""
        ...

    def logs(self, lines: int) -> str:
        """The last lines that it printed."""
        ...

    def lines(self) -> Iterator[str]:
        """Each line that it prints, from the first on, as it comes; waits for more until it has ended."""
        ...

    def execute(self, argv: Sequence[str], *, seconds: float) -> tuple[int, str]:
        """Run a program beside it, in its surroundings; the exit code and what was printed."""
        ...

    def processes(self) -> tuple[str, ...]:
        """The command lines of all that runs in it."""
        ...

    def inspect(self) -> Mapping[str, Any]: ...
    def stop(self) -> None:
        """End all of its processes and remove it. Fine when it is gone."""
        ...


class Runner(Protocol):
    @property
    def kind(self) -> RunnerKind: ...
    def version(self) -> Host:
        """Raises EnvironmentFault where nothing can be started here."""
        ...

    def image(self, reference: str) -> LocalImage | None: ...
    def pull(self, repository: str, digest: str, moved: Moved) -> LocalImage: ...
    def start(self, run: ContainerRun) -> Running: ...
    def output(self, image: str, argv: Sequence[str], labels: Mapping[str, str]) -> str:
        """What a program prints that ends by itself. Raises EnvironmentFault where it fails."""
        ...

    def reap(self, cell: str, workspace: Path) -> int:
        """End and remove what killed runs of this cell left behind; the caller holds the cell. How many."""
        ...
