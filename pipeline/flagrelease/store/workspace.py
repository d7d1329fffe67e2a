"""The folders of a workspace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """The folder `.flagrelease` (or `--workspace`). All of its content can be recreated by running again."""

    root: Path

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.jsonl"

    @property
    def evidence(self) -> Path:
        return self.root / "evidence"

    @property
    def weights(self) -> Path:
        """Model folders, one for each model and revision."""
        return self.root / "weights"

    @property
    def data(self) -> Path:
        """Downloaded benchmark data by sha256."""
        return self.root / "data"

    @property
    def wheels(self) -> Path:
        """The wheelhouse: one folder for each digest of requirements."""
        return self.root / "wheels"

    @property
    def layers(self) -> Path:
        """Layers of images, and what is known of base images, by what they are made of."""
        return self.root / "layers"

    @property
    def images(self) -> Path:
        """Root folders that replace images on hosts without containers."""
        return self.root / "images"

    def image(self, digest: str) -> Path:
        """The root folder of the image with this digest, which may not exist."""
        return self.images / digest.removeprefix("sha256:")[:32]

    @property
    def processes(self) -> Path:
        """Folders that replace containers, one for each process, removed when it ends."""
        return self.root / "processes"

    @property
    def kernels(self) -> Path:
        """Operator bundles by cell and content digest."""
        return self.root / "kernels"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def prefect(self) -> Path:
        return self.root / "prefect"

    @property
    def releases(self) -> Path:
        """The local release folder: releases/CHIP/MODEL/TAG."""
        return self.root / "releases"

    @property
    def drafts(self) -> Path:
        """Cards of cells withheld from publishing by a gate: drafts/CHIP/MODEL."""
        return self.root / "drafts"

    def scratch(self, cell: str, stage: str) -> Path:
        """The folder of a stage's unfinished work, created here. It survives a kill, so that the next run resumes."""
        path = self.root / "work" / cell / stage
        path.mkdir(parents=True, exist_ok=True)
        return path


def manifest_of(folder: Path) -> Path:
    """The list of the verified files of a weights folder, next to it. Without it the files are verified again."""
    return folder.with_name(f"{folder.name}.json")
