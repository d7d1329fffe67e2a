"""Temporary files of dead or interrupted runs are removed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from flagrelease.run.cleanup import leftovers
from flagrelease.store.files import TEMPORARY, unfinished
from flagrelease.store.workspace import Workspace

NO_PORTS: Any = None  # no cells, so no container is looked for
DEAD = 2**22 + 1
"""More than the largest PID that Linux gives out."""


def test_a_folder_goes_although_a_program_still_writes_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "wheels" / f"{TEMPORARY}{DEAD}.x"
    folder.mkdir(parents=True)
    remove, writes = shutil.rmtree, iter(["late.whl", "later.whl"])

    def remove_while_written(path: Path, **options: Any) -> None:
        remove(path, **options)
        for name in writes:
            path.mkdir()
            (path / name).write_bytes(b"")
            return

    monkeypatch.setattr(shutil, "rmtree", remove_while_written)
    leftovers([], Workspace(tmp_path), NO_PORTS)
    assert not folder.exists()


def test_own_files_are_removed_only_after_an_interrupt(tmp_path: Path) -> None:
    own = tmp_path / "wheels" / f"{unfinished()}x"
    own.mkdir(parents=True)
    leftovers([], Workspace(tmp_path), NO_PORTS)
    assert own.exists(), "this process may still be writing it"
    leftovers([], Workspace(tmp_path), NO_PORTS, own=True)
    assert not own.exists()
