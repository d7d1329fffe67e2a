"""The context in which a stage runs or checks an earlier result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from flagrelease.contract.handles import Finished, R, ResultOf, ResultUnavailable, StageResult
from flagrelease.ports.meter import Meter
from flagrelease.store.evidence import EvidenceStore
from flagrelease.store.workspace import Workspace

if TYPE_CHECKING:
    from flagrelease.contract.server_pool import ServerPool
    from flagrelease.ports.clock import Clock
    from flagrelease.ports.command import Command
    from flagrelease.ports.container_runner import Runner
    from flagrelease.ports.docker.engine import Docker
    from flagrelease.ports.hub import Hubs
    from flagrelease.ports.progress import Progress
    from flagrelease.ports.registry import Registry
    from flagrelease.ports.registry.transfer import Target
    from flagrelease.recipe.devices import Devices

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The interfaces to the outside world."""

    clock: Clock
    """Time and sleep."""
    command: Command
    """Runs programs on this host."""
    docker: Docker
    """Knows the base images of this machine."""
    runner: Runner
    """Starts served images, as containers or processes."""
    registry: Target
    """Has the base images and those that are made."""
    hubs: Hubs
    """Downloads weights and data."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """The places where `Stage.intact` checks an earlier result."""

    workspace: Workspace
    """The files of earlier runs."""
    evidence: EvidenceStore
    """Stored evidence."""
    registry: Registry | None = None
    """Published images; none for `plan`, which stays offline."""


class Shared(Protocol):
    """Values shared by all cells, such as baseline evaluations, by a key of everything they depend on."""

    def recall(self, key: str, kind: type[T]) -> T | None:
        """The newest value under the key, or None. Raises msgspec.ValidationError if it is not a `kind`."""

    def remember(self, key: str, value: object) -> None:
        """Store a value under the key; None marks the stored value as obsolete."""


class NothingShared:
    """A Shared that stores nothing."""

    def recall(self, _key: str, _kind: type[T]) -> T | None:
        return None

    def remember(self, _key: str, _value: object) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Context:
    """The context of a running stage."""

    run_id: str
    """The id of the run."""
    workspace: Workspace
    """The folders for its files."""
    evidence: EvidenceStore
    """The store for files that prove its result."""
    ports: Ports
    """The interfaces to the outside world."""
    progress: Progress
    """Reports progress to the user."""
    meter: Meter
    """Measures the stage's cost."""
    reads: tuple[ResultOf[StageResult], ...] = ()
    """The results that the stage declares in `reads`."""
    finished: Finished = field(default_factory=Finished)
    """All earlier stages with their cost, for the release record. To read a result use `result` or `optional`."""
    shared: Shared = field(default_factory=NothingShared)
    """Values shared by all cells."""
    server_pool: ServerPool | None = None
    """The cell's servers that earlier stages left running."""
    devices: Devices | None = None
    """The devices of the machine that the stage holds; None for all, and for a stage that is not on the chip."""

    def result(self, handle: ResultOf[R]) -> R:
        """A declared result. Raises ResultUnavailable if it is not declared or does not exist."""
        self._require_declared(handle)
        return self.finished.result(handle)

    def optional(self, handle: ResultOf[R]) -> R | None:
        """A declared result; None if that stage was skipped. Raises ResultUnavailable if it is not declared."""
        self._require_declared(handle)
        return self.finished.get(handle)

    def _require_declared(self, handle: ResultOf[StageResult]) -> None:
        if handle not in self.reads:
            declared = ", ".join(read.stage for read in self.reads) or "nothing"
            raise ResultUnavailable(f"{handle.stage} is used, but the stage declares in `reads`: {declared}")
