"""Write the status file PID.json of each process of an engine.

A separate thread writes it, so an event that occurs thousands of times a second only increments a counter."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any, Protocol

__all__ = ["WRITE_EVERY_S", "ProcessFile", "StatusSource", "files_of"]

WRITE_EVERY_S = 0.5


class StatusSource(Protocol):
    """The counters of a process."""

    def events(self) -> int:
        """The number of events so far; cheap, as it is called twice a second."""

    def snapshot(self) -> dict[str, Any]:
        """All counters, as JSON values."""

    def reset(self) -> None:
        """Set the counters to zero, in a forked process: its parent reports the earlier events."""


class ProcessFile:
    """Writes `folder/PID.json` now, within half a second of each event, and at exit. A forked process writes a
    separate file from its first event on. Raises OSError if the first write fails."""

    def __init__(self, folder: Path, source: StatusSource) -> None:
        self.folder, self.source = folder, source
        folder.mkdir(parents=True, exist_ok=True)
        self._written = -1
        self._begin()
        self.write()
        os.register_at_fork(after_in_child=self._forked)
        atexit.register(self.write)

    def _begin(self) -> None:
        self._writing = threading.Lock()  # a fork may have copied a held lock
        threading.Thread(target=self._keep_writing, name="flagkernels-status", daemon=True).start()

    def write(self) -> None:
        """Write the file if there are new events."""
        with self._writing:
            events = self.source.events()
            if events == self._written:
                return
            pid = os.getpid()
            # Not synced: it describes a running process and is worthless after a crash of the machine.
            temporary = self.folder / f".{pid}.json"
            temporary.write_text(json.dumps({"pid": pid, **self.source.snapshot()}, ensure_ascii=False, default=repr))
            temporary.replace(self.folder / f"{pid}.json")
            self._written = events

    def _forked(self) -> None:
        self.source.reset()
        self._written = self.source.events()
        self._begin()

    def _keep_writing(self) -> None:
        while True:
            time.sleep(WRITE_EVERY_S)
            with contextlib.suppress(OSError):  # a full disk: retried here, raised at exit
                self.write()


def files_of(folder: Path) -> list[Path]:
    """The status files in the folder; none if it does not exist."""
    return sorted(folder.glob("[0-9]*.json")) if folder.is_dir() else []
