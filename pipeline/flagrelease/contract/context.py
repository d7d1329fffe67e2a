"""What a stage may use while it runs or looks at an earlier result."""

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

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The outside world. `docker` makes and pushes images, `runner` starts programs."""

    clock: Clock
    command: Command
    docker: Docker
    runner: Runner
    registry: Registry
    hubs: Hubs


@dataclass(frozen=True, kw_only=True)
class Look:
    """Where `intact` may look for an earlier result. `plan` stays offline and gives no registry."""

    workspace: Workspace
    evidence: EvidenceStore
    registry: Registry | None = None


class Shared(Protocol):
    """What all cells share, such as baseline evaluations, by a key of everything that it depends on."""

    def recall(self, key: str, kind: type[T]) -> T | None:
        """The newest value under the key. Raises msgspec.ValidationError where that is not of this type."""

    def remember(self, key: str, value: object) -> None:
        """Keep a value under the key; None says that what is there is no longer of use."""


class NothingShared:
    """Keeps nothing."""

    def recall(self, _key: str, _kind: type[T]) -> T | None:
        return None

    def remember(self, _key: str, _value: object) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a stage may use while it runs."""

    run_id: str
    """The run that it is part of."""
    workspace: Workspace
    """Where files are kept."""
    evidence: EvidenceStore
    """Where what proves a result is kept."""
    ports: Ports
    """The outside world."""
    progress: Progress
    """Shows what is being done."""
    meter: Meter
    """Counts what the stage costs."""
    reads: tuple[ResultOf[StageResult], ...] = ()
    """The results that the stage declares to read."""
    finished: Finished = field(default_factory=Finished)
    """All stages before it, with what they cost: for the release record. For a result use `result` or `optional`."""
    shared: Shared = field(default_factory=NothingShared)
    """What all cells share."""
    server_pool: ServerPool | None = None
    """The cell's servers of earlier stages."""

    def result(self, handle: ResultOf[R]) -> R:
        """A result that the stage reads. Raises ResultUnavailable where it does not declare so, or there is none."""
        self._require_declared(handle)
        return self.finished.result(handle)

    def optional(self, handle: ResultOf[R]) -> R | None:
        """A result that the stage reads; None where that stage was skipped. Raises ResultUnavailable where the stage
        does not declare that it reads it."""
        self._require_declared(handle)
        return self.finished.get(handle)

    def _require_declared(self, handle: ResultOf[StageResult]) -> None:
        if handle not in self.reads:
            declared = ", ".join(one.stage for one in self.reads) or "nothing"
            raise ResultUnavailable(f"{handle.stage} is used, but the stage declares in `reads`: {declared}")
