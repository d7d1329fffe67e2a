"""Contexts of stages, for tests: with the results of earlier stages, and stand-ins for what the context gives."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from flagrelease.config.chip import Container
from flagrelease.contract import results
from flagrelease.contract.context import Context, Ports
from flagrelease.contract.handles import Done, Finished, ResultOf, StageResult
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.meter import Meter
from flagrelease.ports.progress import Count
from flagrelease.recipe.container import ContainerRun, Placement
from flagrelease.serving.server import Served
from flagrelease.store.evidence import EvidenceStore
from flagrelease.store.workspace import Workspace

T = TypeVar("T")

READABLE: tuple[ResultOf[StageResult], ...] = (
    results.WEIGHTS,
    results.KERNELS,
    results.IMAGE,
    results.SMOKE,
    results.ACCURACY,
    results.SPEED,
    results.CARD,
)


def after(context: Context, **made: StageResult) -> Context:
    """The context of a stage that reads all results, after those that `context` has and `made`, by stage."""
    more = [Done(stage=name, key=(name.encode().hex() * 8)[:64], result=result) for name, result in made.items()]
    return replace(context, reads=READABLE, finished=Finished([*context.finished, *more]))


@dataclass
class Remembered:
    """What cells share, kept as the ledger keeps it."""

    values: dict[str, Any] = field(default_factory=dict)

    def recall(self, key: str, kind: type[T]) -> T | None:
        found = self.values.get(key)
        return None if found is None else msgspec.convert(found, kind)

    def remember(self, key: str, value: object) -> None:
        self.values[key] = msgspec.to_builtins(value)


@dataclass
class Shown:
    """Progress that remembers."""

    texts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def doing(self, text: str, count: Count | None = None) -> None:
        self.texts.append(f"{text} {count.done}/{count.total} {count.unit}" if count else text)

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass
class Dying:
    """Progress that kills the process when step number `at` of the targets begins."""

    at: int

    def doing(self, text: str, count: Count | None = None) -> None:  # noqa: ARG002
        if text.startswith("publishing to "):
            self.at -= 1
            if self.at == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def note(self, text: str) -> None:
        """Nobody reads it."""


@dataclass
class SleeplessClock(SystemClock):
    """A clock that does not wait, and remembers for how long it was to."""

    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


_NONE: Any = object()  # a port that must not be asked


def without_ports(root: Path, clock: SleeplessClock, progress: Shown, **made: StageResult) -> Context:
    """The context of a stage that asks nothing outside but the clock, after the stages in `made`."""
    workspace = Workspace(root)
    ports = Ports(clock=clock, command=_NONE, docker=_NONE, runner=_NONE, registry=_NONE, hubs=_NONE)
    empty = Context(
        run_id="0123456789ab",
        workspace=workspace,
        evidence=EvidenceStore(workspace.evidence),
        ports=ports,
        progress=progress,
        meter=Meter(clock),
    )
    return after(empty, **made)


@dataclass
class Executing:
    """A running container in which only programs are run: `prints` gives what each prints."""

    prints: Callable[[Sequence[str]], str]
    executed: list[Sequence[str]] = field(default_factory=list)

    def execute(self, argv: Sequence[str], *, seconds: float) -> tuple[int, str]:
        assert seconds > 0
        self.executed.append(argv)
        return 0, self.prints(argv)

    def ended(self) -> None:
        """It runs."""

    def logs(self, lines: int) -> str:
        return f"the last {lines} lines"


def served(container: Executing) -> Served:
    """A served image, of which only the container is asked."""
    running: Any = container
    run = ContainerRun(image="", command=(), mounts=(), env={}, flags=Container(), placement=Placement())
    return Served(base_url="", model="m", port_inside=0, folder_inside="", ready_seconds=0.0, run=run, running=running)
