"""Remove containers and partial files left by killed runs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from flagrelease.config.cell import Cell
from flagrelease.contract.context import Ports
from flagrelease.stages.image import process_root
from flagrelease.store.files import TEMPORARY, abandoned
from flagrelease.store.workspace import Workspace


def leftovers(cells: Sequence[Cell], workspace: Workspace, ports: Ports) -> None:
    """Remove containers of these cells, whose locks the caller holds, and temporary files of dead processes."""
    for cell in cells:
        ports.runner.reap(cell.id, workspace.root)
    process_root.sweep(workspace.images)
    for path in [*workspace.root.glob(f"{TEMPORARY}*"), *workspace.root.glob(f"*/**/{TEMPORARY}*")]:
        if abandoned(path):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
