"""PID.json: what each process of an engine tells of itself, in one folder for all of them.

A thread of its own writes it, so that what is counted thousands of times a second costs a computation nothing but the
counting."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any, Protocol

__all__ = ["WRITE_EVERY_S", "ProcessFile", "Teller", "files_of"]

WRITE_EVERY_S = 0.5


class Teller(Protocol):
    """What a process counts."""

    def events(self) -> int:
        """How many there were; cheap, as it is asked twice a second."""

    def told(self) -> dict[str, Any]:
        """Everything, for JSON."""

    def forget(self) -> None:
        """Starts anew: in a forked process, whose parent tells what was before."""


class ProcessFile:
    """Writes `folder/PID.json` now, within half a second of each event, and at exit. A forked process has a file of
    its own as soon as it has something to tell. Raises OSError where the first cannot be written."""

    def __init__(self, folder: Path, teller: Teller) -> None:
        self.folder, self.teller = folder, teller
        folder.mkdir(parents=True, exist_ok=True)
        self._written = -1
        self._begin()
        self.write()
        os.register_at_fork(after_in_child=self._forked)
        atexit.register(self.write)

    def _begin(self) -> None:
        self._writing = threading.Lock()  # a fork copies one that its thread may have held
        threading.Thread(target=self._keep_writing, name="flagkernels-tells", daemon=True).start()

    def write(self) -> None:
        """Only where there is something new."""
        with self._writing:
            events = self.teller.events()
            if events == self._written:
                return
            pid = os.getpid()
            # Not synced: it describes a process, and is gone with the machine.
            temporary = self.folder / f".{pid}.json"
            temporary.write_text(json.dumps({"pid": pid, **self.teller.told()}, ensure_ascii=False, default=repr))
            temporary.replace(self.folder / f"{pid}.json")
            self._written = events

    def _forked(self) -> None:
        self.teller.forget()
        self._written = self.teller.events()
        self._begin()

    def _keep_writing(self) -> None:
        while True:
            time.sleep(WRITE_EVERY_S)
            with contextlib.suppress(OSError):  # a full disk: tried again, and raised at exit
                self.write()


def files_of(folder: Path) -> list[Path]:
    """What the processes wrote; none where the folder is not there."""
    return sorted(folder.glob("[0-9]*.json")) if folder.is_dir() else []
