"""The shipped project in a folder of its own, to which a newcomer adds one thing as the README says."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flagrelease.config import lockfile as locks
from flagrelease.config import matrix as matrices
from flagrelease.config.cell import Cell, expand, select
from flagrelease.config.lockfile import Lock
from flagrelease.config.matrix import Matrix
from flagrelease.contract.context import Look, Ports
from flagrelease.contract.job import Job
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.hub import RealHubs
from flagrelease.ports.progress import Silent
from flagrelease.ports.registry import MANIFEST_TYPES, Manifest
from flagrelease.run import relock
from flagrelease.run.history import History
from flagrelease.run.plan import CellPlan, Choice, plan_cell
from flagrelease.stages import STAGES
from flagrelease.store.evidence import EvidenceStore
from flagrelease.store.ledger import Ledger
from flagrelease.store.workspace import Workspace

SOURCE = Path(__file__).parents[2]
ONE_PER_VENDOR = """\
  - {chip: nvidia-a100, model: "*", reason: a target names releases by vendor and model}
  - {chip: "nvidia-h2*", model: "*", reason: a target names releases by vendor and model}
"""
"""Rules at the end of the shipped matrix, for targets with their default names."""
DIGEST = f"sha256:{'d' * 64}"
README = (SOURCE / "README.md").read_text().partition("## Extend")[2].partition("\n## ")[0]


def recipe(thing: str) -> str:
    """What the README says one does to add `thing`, which it may explain in parentheses."""
    (row,) = [line for line in README.splitlines() if line.startswith((f"| {thing} |", f"| {thing} ("))]
    return row


class _Registry:
    def digest(self, _repository: str, _reference: str) -> str:
        return DIGEST

    def manifest(self, _repository: str, reference: str) -> Manifest:
        return Manifest(digest=reference, media_type=MANIFEST_TYPES[0], body=b"")


def _resolver(argv: Sequence[Any], **_options: Any) -> subprocess.CompletedProcess[str]:
    """In the place of uv and its index: pins what was asked for."""
    asked = Path(argv[-1]).read_text().splitlines()
    lines = [f"{line if '==' in line else f'{line}==1'} --hash=sha256:{'0' * 64}" for line in asked]
    return subprocess.CompletedProcess([], 0, stdout="\n".join(lines))


@dataclass
class NewcomerProject:
    root: Path
    lock: Lock = field(default_factory=lambda: locks.load(SOURCE / "matrix.lock"))

    def __post_init__(self) -> None:
        (self.root / "matrix.yaml").write_text((SOURCE / "matrix.yaml").read_text())

    def add(self, section: str, stanza: str) -> None:
        """Put `stanza` under the section `chips`, `models`, `benchmarks`, … of matrix.yaml."""
        self.replace(f"\n{section}:\n", f"\n{section}:\n{stanza}")

    def replace(self, old: str, new: str) -> None:
        path = self.root / "matrix.yaml"
        text = path.read_text()
        head, found, tail = text.partition(old)
        assert found, old
        path.write_text(head + new + tail)

    @property
    def matrix(self) -> Matrix:
        return matrices.load(self.root / "matrix.yaml")

    def cell(self, name: str) -> Cell:
        (cell,) = select(expand(self.matrix), [name], [], [])
        return cell

    def relock(self, name: str) -> Lock:
        """`flagrelease lock CELL`, with hubs as they are, and a registry and an index that have everything."""
        unused: Any = None
        stand_ins: dict[str, Any] = {"registry": _Registry(), "command": _resolver}
        ports = Ports(clock=SystemClock(), docker=unused, runner=unused, hubs=RealHubs(), **stand_ins)
        self.lock = relock.relock(self.matrix, self.lock, ports, [self.cell(name)], Silent()).lock
        return self.lock

    def job(self, name: str) -> Job:
        templates = SOURCE / "templates"
        return Job(
            cell=self.cell(name), matrix=self.matrix, lock=self.lock, registry="localhost:1/none", templates=templates
        )

    def plan(self, name: str) -> CellPlan:
        look = Look(workspace=Workspace(self.root), evidence=EvidenceStore(self.root / "evidence"))
        return plan_cell(self.job(name), STAGES, History(Ledger(self.root / "ledger.jsonl"), look), Choice())
