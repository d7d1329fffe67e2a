"""The executor port: start programs on a chip's host, in Docker containers or as plain processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flagrelease.recipe.container import ContainerRun, RunnerKind
from flagrelease.store.machine import DeadRun, boot_id, host_id

RUN_LABEL = "flagrelease.run"
CELL_LABEL = "flagrelease.cell"
WORKSPACE_LABEL = "flagrelease.workspace"
MACHINE_LABEL = "flagrelease.machine"
BOOT_LABEL = "flagrelease.boot"
"""Of the run's machine, which is another one than the engine's if that is called over the network."""

Moved = Callable[[int, int], None]
"""Progress callback: bytes transferred so far, and bytes in total."""

Note = Callable[[str], None]
"""Gets what the user should see, such as a long silence."""


def unheard(_text: str) -> None:
    """A Note that nobody reads."""


def labels(run_id: str, cell: str, workspace: Path) -> dict[str, str]:
    """The labels of every container, by which the leftovers of a killed run are found."""
    return {
        RUN_LABEL: run_id,
        CELL_LABEL: cell,
        WORKSPACE_LABEL: str(workspace.resolve()),
        MACHINE_LABEL: host_id(),
        BOOT_LABEL: boot_id(),
    }


@dataclass(frozen=True, kw_only=True)
class Host:
    """The executor and the host that it runs on."""

    name: str
    """The executor's name."""
    version: str
    """The executor's version."""
    os: str
    kernel: str


@dataclass(frozen=True, kw_only=True)
class LocalImage:
    """An image that is present on the host."""

    id: str
    size: int
    """Unpacked, in bytes."""
    layers: tuple[str, ...] = ()
    """Digests of the unpacked layers, in order."""
    labels: Mapping[str, str]
    digests: tuple[str, ...] = ()
    """NAME@DIGEST of every repository it was pushed to or pulled from."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The end of a program that no longer runs."""

    code: int
    out_of_memory: bool
    error: str
    """The executor's message; empty if there is none."""


class Running(Protocol):
    """A running container, or the process that stands in for it."""

    @property
    def id(self) -> str: ...
    def port(self, inside: int) -> int:
        """The host port that maps to port `inside` of the container."""
        ...

    def ended(self) -> Ended | None:
        """None while it runs."""
        ...

    def logs(self, lines: int) -> str:
        """The last `lines` lines of its output."""
        ...

    def lines(self) -> Iterator[str]:
        """Follow its output from the first line until it ends."""
        ...

    def execute(self, argv: Sequence[str], *, seconds: float) -> tuple[int, str]:
        """Run another program in it; return the exit code and the output."""
        ...

    def processes(self) -> tuple[str, ...]:
        """The command lines of all its processes."""
        ...

    def cpu_seconds(self) -> float | None:
        """The processor time that all its processes have used since it started; None if it is unknown."""
        ...

    def inspect(self) -> Mapping[str, Any]: ...
    def stop(self) -> None:
        """Terminate all its processes and remove it. Does nothing if it is already gone."""
        ...


class Runner(Protocol):
    @property
    def kind(self) -> RunnerKind: ...
    @property
    def address(self) -> str:
        """Where its programs run: what one runner starts, another one with the same address finds."""
        ...

    def version(self) -> Host:
        """Raises EnvironmentFault if nothing can be started on this host."""
        ...

    def image(self, reference: str) -> LocalImage | None: ...
    def pull(self, repository: str, digest: str, moved: Moved, note: Note = unheard) -> LocalImage: ...
    def start(self, run: ContainerRun) -> Running: ...
    def output(self, image: str, argv: Sequence[str], labels: Mapping[str, str]) -> str:
        """Run a program to its end and return its output. Raises EnvironmentFault if it fails."""
        ...

    def reap(self, cell: str, workspace: Path) -> int:
        """Remove the leftovers of killed runs of this cell and return their number. The caller holds the cell lock."""
        ...

    def reap_run(self, run: DeadRun) -> int:
        """Remove what a dead run left here, and return its number. The caller holds the dead run's lock."""
        ...

    def reap_boots(self) -> int:
        """Remove what runs of earlier boots of this machine left here, and return its number."""
        ...
