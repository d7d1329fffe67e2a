"""Load a project: matrix, lock, workspace, ledger and the real ports."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from flagrelease.config import lockfile as locks
from flagrelease.config import matrix as matrices
from flagrelease.config.cell import Cell, expand
from flagrelease.config.lockfile import Lock
from flagrelease.config.matrix import Matrix
from flagrelease.config.waivers import check_days
from flagrelease.contract.context import Look
from flagrelease.contract.job import Job
from flagrelease.contract.results import PUBLISH, Publish
from flagrelease.contract.stage import AnyStage
from flagrelease.errors import ConfigError, EnvironmentFault, FlagreleaseError, RegistryUnavailable
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.docker.local_images import LocalImages
from flagrelease.ports.retry import Backoff
from flagrelease.releases import facts, rot, yanks
from flagrelease.releases.lineage import Previous
from flagrelease.releases.rot import WATCH, Rot
from flagrelease.releases.yanks import YANK, Yank
from flagrelease.run import remedy
from flagrelease.run.cell_state import image_of, own_tag
from flagrelease.run.history import History
from flagrelease.run.plan import CellPlan, Choice, blocked, plan_cell
from flagrelease.store.evidence import EvidenceStore
from flagrelease.store.ledger import Entry, Ledger
from flagrelease.store.workspace import Workspace

# The repository name grammar of the OCI distribution specification, after a host.
_REGISTRY = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)+")

if TYPE_CHECKING:
    from flagrelease.contract.context import Ports
    from flagrelease.ports.registry import Registry
    from flagrelease.ports.registry.transfer import Target
    from flagrelease.recipe.container import RunnerKind


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options that are common to all verbs."""

    matrix: Path = Path("matrix.yaml")
    workspace: Path | None = None
    """None: .flagrelease next to the matrix."""
    registry: str | None = None
    """HOST[:PORT]/PREFIX; overrides the matrix."""
    profile: str | None = None
    """The profile of all cells; overrides the matrix."""
    data_dir: Path | None = None
    """Folder with the user's own benchmark data."""
    runner: RunnerKind = "docker"


@dataclass(frozen=True, kw_only=True)
class Project:
    """A matrix with its lock and the history of its workspace."""

    matrix: Matrix
    lock: Lock
    lock_path: Path
    cells: tuple[Cell, ...]
    """Every chip × model pair, excluded ones included."""
    workspace: Workspace
    ledger: Ledger
    evidence: EvidenceStore
    registry: str
    """HOST[:PORT]/PREFIX."""
    templates: Path
    """Folder of the templates in use."""
    data_dir: Path | None
    """Folder with the user's own benchmark data."""
    runner: RunnerKind = "docker"
    images: LocalImages = field(default_factory=LocalImages)
    """The images that this machine's Docker Engine has."""

    def job(self, cell: Cell) -> Job:
        """The cell's job, without the operators that attribution in earlier runs has removed."""
        from flagrelease.stages import REMEDY, STAGES

        job = Job(
            cell=cell,
            matrix=self.matrix,
            lock=self.lock,
            registry=self.registry,
            templates=self.templates,
            data_dir=self.data_dir,
            runner=self.runner,
        )
        return remedy.resumed(job, STAGES, REMEDY, self.ledger)

    def yanks(self, cell: str) -> Mapping[str, Yank]:
        """The yanked releases of a cell, by tag."""
        entries = (entry for entry in self.ledger.entries() if entry.stage == YANK and entry.cell == cell)
        return yanks.standing(yanks.parse(entry.result) for entry in entries)

    def rot(self, cell: str) -> Mapping[str, Rot]:
        """What a watch found last of the releases of a cell, by tag."""
        entries = (entry for entry in self.ledger.entries() if entry.stage == WATCH and entry.cell == cell)
        return rot.standing(rot.parse(entry.result) for entry in entries)

    def publications(self, cell: str) -> dict[str, Publish]:
        """The published releases of a cell by their tags, oldest first."""
        found: dict[str, Publish] = {}
        for entry in self.ledger.entries():
            result = PUBLISH.of(entry) if entry.stage == PUBLISH.stage and entry.cell == cell else None
            if result is not None and result.tags:
                found.pop(own_tag(result), None)
                found[own_tag(result)] = result
        return found

    def previous(self, cell: str) -> Previous | None:
        """The newest published release of a cell; none before the first."""
        published = self.publications(cell)
        if not published:
            return None
        tag, result = next(reversed(published.items()))
        yank = self.yanks(cell).get(tag)
        previous = Previous(
            tag=tag,
            image=image_of(result),
            yanked="" if yank is None else yank.reason,
        )
        try:
            recorded = facts.read(self.evidence.read(result.record))
        except FlagreleaseError:  # lost, or of another version
            return previous
        keys = {each.stage: each.key for each in recorded.stages}
        return replace(previous, keys=keys, rendered_by=recorded.rendered_by, lineage=recorded.lineage)

    def plan(
        self, cells: Sequence[Cell], stages: tuple[AnyStage, ...], wanted: Choice, registry: Registry | None = None
    ) -> list[CellPlan]:
        """Plan the cells. Without `registry`, nothing outside this machine is contacted."""
        past, today = self.past(registry), SystemClock().now().date().isoformat()

        def planned(cell: Cell) -> CellPlan:
            try:
                check_days(cell.waivers, today)
            except ConfigError as error:
                return blocked(cell, [stage.name for stage in stages], error.line(), error.hint)
            return plan_cell(self.job(cell), stages, past, wanted)

        return [planned(cell) for cell in cells]

    def past(self, registry: Registry | None = None) -> History:
        """The results of earlier runs. Without `registry`, images in it are not checked."""
        return History(self.ledger, Look(workspace=self.workspace, evidence=self.evidence, registry=registry))

    def latest(self, cell: Cell, stages: Sequence[AnyStage]) -> Mapping[str, Entry]:
        """The newest ledger entry of each stage of a cell, whatever its state."""
        entries = {stage.name: self.ledger.last(cell.id, stage.name) for stage in stages}
        return {name: entry for name, entry in entries.items() if entry is not None}


def open_project(options: Options, read_lock: Callable[[Path], Lock] = locks.load) -> Project:
    """Load the project. Raises ConfigError if the matrix, lock, workspace or registry is invalid."""
    matrix = matrices.load(options.matrix)
    folder = options.matrix.resolve().parent
    workspace = Workspace((options.workspace or folder / ".flagrelease").resolve())
    if ":" in str(workspace.root) or not str(workspace.root).isprintable():
        why = "Docker separates the paths of a mount with colons, and logs have a line for each event"
        hint = "choose another --workspace DIR, without colons, line breaks and control characters"
        raise ConfigError(f"{str(workspace.root)!r} cannot be the workspace", why=why, hint=hint)
    nearest = next(path for path in (workspace.root, *workspace.root.parents) if path.exists())
    if not nearest.is_dir():
        raise ConfigError(f"{nearest} is not a directory", hint="choose another --workspace DIR")
    lock_path = options.matrix.with_suffix(".lock")
    registry = (options.registry or matrix.registry).rstrip("/")
    if not _REGISTRY.fullmatch(registry):
        raise ConfigError(
            f"invalid registry: {registry!r}",
            hint="write HOST[:PORT]/PREFIX; a prefix has lower-case letters, digits and single . _ - /",
        )
    return Project(
        matrix=matrix,
        lock=read_lock(lock_path),
        lock_path=lock_path,
        cells=expand(matrix, profile=options.profile),
        workspace=workspace,
        ledger=Ledger(workspace.ledger),
        evidence=EvidenceStore(workspace.evidence),
        registry=registry,
        templates=templates(folder),
        data_dir=options.data_dir,
        runner=options.runner,
    )


def shipped_templates() -> Path:
    """The templates in the flagrelease package. Raises EnvironmentFault if they are not installed."""
    shipped = Path(str(resources.files("flagrelease") / "templates"))
    if not shipped.is_dir():
        raise EnvironmentFault(
            "flagrelease is installed without its templates",
            why=f"{shipped} does not exist",
            hint="reinstall flagrelease",
        )
    return shipped


def templates(folder: Path) -> Path:
    """The templates of the project in `folder`: its own `templates` folder if it has one, else those of the package.

    Raises ConfigError if the project's folder is incomplete.
    """
    own, shipped = folder / "templates", shipped_templates()
    if not own.is_dir():
        return shipped
    if missing := sorted(path.name for path in shipped.glob("*.j2") if not (own / path.name).is_file()):
        raise ConfigError(
            f"{own} has no {missing[0]}",
            why="if that folder exists, all templates are read from it",
            hint=f"copy the missing templates from {shipped}, or rename the folder",
        )
    return own


def real_ports(workspace: Workspace, registry: str, kind: RunnerKind = "docker") -> Ports:
    """The adapters to Docker, registries, hubs and programs; `registry` is HOST[:PORT]/PREFIX. Their libraries are
    imported here, not at start-up."""
    from flagrelease.contract.context import Ports
    from flagrelease.ports import command
    from flagrelease.ports.credentials import Logins
    from flagrelease.ports.docker.engine import Engine
    from flagrelease.ports.hub import RealHubs
    from flagrelease.ports.processes.runner import ProcessRunner
    from flagrelease.ports.registry import OciRegistry

    logins = Logins(own=registry.partition("/")[0])
    engine = Engine(known=logins)
    return Ports(
        clock=SystemClock(),
        command=command.run,
        docker=engine,
        runner=engine if kind == "docker" else ProcessRunner(workspace),
        registry=OciRegistry(known=logins),
        hubs=RealHubs(),
    )


def check_registry(registry: str) -> None:
    """Raise RegistryUnavailable or RegistryDenied, soon, unless releases can be pushed to `registry`."""
    try:
        impatient_registry(registry).check_push(f"{registry}/preflight")
    except RegistryUnavailable as error:
        error.hint += ", or choose another one with --registry HOST/NAME"
        raise


def impatient_registry(registry: str) -> Target:
    """A registry client for checks before a run: it retries for 3 s only. `registry` is that of the releases."""
    from flagrelease.ports.credentials import Logins
    from flagrelease.ports.registry import OciRegistry

    return OciRegistry(backoff=Backoff(first=0.5, budget=3.0), known=Logins(own=registry.partition("/")[0]))
