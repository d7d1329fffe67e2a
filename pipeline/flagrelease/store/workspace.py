"""Where a run keeps its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """The folder `.flagrelease` (or `--workspace`). Everything under it can be made again by running again."""

    root: Path

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.jsonl"

    @property
    def evidence(self) -> Path:
        return self.root / "evidence"

    @property
    def weights(self) -> Path:
        """Model folders, one a model and revision."""
        return self.root / "weights"

    @property
    def data(self) -> Path:
        """Downloaded benchmark data, by sha256."""
        return self.root / "data"

    @property
    def wheels(self) -> Path:
        """The wheelhouse, one folder a requirements digest."""
        return self.root / "wheels"

    @property
    def images(self) -> Path:
        """What takes the place of images where there are no containers."""
        return self.root / "images"

    def image(self, digest: str) -> Path:
        """The root folder of the image with this digest, there or not."""
        return self.images / digest.removeprefix("sha256:")[:32]

    @property
    def processes(self) -> Path:
        """What takes the place of containers: a folder each, gone when its process has ended."""
        return self.root / "processes"

    @property
    def kernels(self) -> Path:
        """Bundles of operators, by cell and content."""
        return self.root / "kernels"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def prefect(self) -> Path:
        return self.root / "prefect"

    @property
    def releases(self) -> Path:
        """What is published to the local release folder: releases/CHIP/MODEL/TAG."""
        return self.root / "releases"

    @property
    def drafts(self) -> Path:
        """Cards of cells that the gates kept from being published: drafts/CHIP/MODEL."""
        return self.root / "drafts"

    def scratch(self, cell: str, stage: str) -> Path:
        """A folder for a stage's unfinished work. It survives a kill, so that the next run resumes there."""
        path = self.root / "work" / cell / stage
        path.mkdir(parents=True, exist_ok=True)
        return path
