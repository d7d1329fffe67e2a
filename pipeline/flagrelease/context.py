"""What a stage may use while it runs or looks at an earlier result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flagrelease.evidence import EvidenceStore
from flagrelease.ports.meter import Meter
from flagrelease.workspace import Workspace

if TYPE_CHECKING:
    from flagrelease.ports.clock import Clock
    from flagrelease.ports.command import Command
    from flagrelease.ports.docker import Docker
    from flagrelease.ports.hub import Hubs
    from flagrelease.ports.progress import Progress
    from flagrelease.ports.registry import Registry
    from flagrelease.ports.runner import Runner
    from flagrelease.standing import Standing


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


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a stage may use while it runs.

    `upstream` holds the results of the stages that it reads, `finished` those of all before it, with what they cost.
    `remember` keeps under a key what all cells share (baseline evaluations), `recall` gives the newest under a key.
    `standing` has the cell's servers of earlier stages.
    """

    run_id: str
    workspace: Workspace
    evidence: EvidenceStore
    ports: Ports
    progress: Progress
    meter: Meter
    upstream: Mapping[str, Any] = field(default_factory=dict)
    finished: Mapping[str, Any] = field(default_factory=dict)
    recall: Callable[[str], Any | None] = lambda _key: None
    remember: Callable[[str, Any], None] = lambda _key, _value: None
    standing: Standing | None = None
