"""Progress on stderr: an updating line on a terminal, plain lines otherwise, JSON lines for a program.

    {"step": "qualify", "done": 3, "total": 15, "doing": "mm silu"}     current activity, at most twice a second
    {"step": "qualify", "done": 4, "total": 15, "text": "mm  correct"}  a finished unit
    {"failed": "qualify", "code": 6, "what": …, "why": …, "hint": …}    the error that ended a step

Does not use rich, which base images need not have."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from typing import TextIO

from flagkernels.errors import KernelsError

__all__ = ["FORMAT", "Progress", "machine_readable", "report_failure"]

FORMAT = "FLAGKERNELS_PROGRESS"
"""Environment variable: `json` selects JSON lines. The steps of `prepare` inherit it."""
EVERY_S = 0.5


def machine_readable() -> bool:
    """True if FLAGKERNELS_PROGRESS asks for JSON lines."""
    return os.environ.get(FORMAT) == "json"


def report_failure(step: str, error: KernelsError, stream: TextIO | None = None) -> None:
    """Write the error that ended a step to stderr, as a JSON line or as text."""
    stream = stream or sys.stderr
    if machine_readable():
        row = {"failed": step, "code": error.exit_code, "what": error.what, "why": error.why, "hint": error.hint}
        stream.write(json.dumps(row) + "\n")
    else:
        stream.write(f"flagkernels {step}: {error}\n")
    stream.flush()


class Progress:
    """Progress display: `with Progress("qualify", total=16) as progress: progress.step("mul: crash")`."""

    def __init__(self, title: str, total: int, stream: TextIO | None = None) -> None:
        self.title = title
        self.total = total
        self.done = 0
        self.stream = stream or sys.stderr
        self.machine = machine_readable()
        self.live = not self.machine and self.stream.isatty()
        self.began = time.monotonic()
        self.shown_at = -EVERY_S

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        spent = time.monotonic() - self.began
        if self.machine:
            self._emit(text=f"{self.done} of {self.total} in {spent:.1f} s")
            return
        if self.live:
            self._erase()
        self.stream.write(f"{self.title}: {self.done} of {self.total} in {spent:.1f} s\n")
        self.stream.flush()

    def step(self, text: str) -> None:
        """Report a finished unit; `text` names it and its result, and stays on the screen."""
        self.done += 1
        if self.machine:
            self._emit(text=text)
            return
        if self.live:
            self._erase()
        self.stream.write(f"[{self.done:>{len(str(self.total))}}/{self.total}] {text}\n")
        self.stream.flush()

    def doing(self, text: str) -> None:
        """Show the current activity in the updating line; ignored where output is plain lines."""
        if self.machine and time.monotonic() - self.shown_at >= EVERY_S:
            self._emit(doing=text)
        if not self.live:
            return
        self._erase()
        spent = time.monotonic() - self.began
        left = spent / self.done * (self.total - self.done) if self.done else None
        line = f"{self.title} {self.done}/{self.total} {spent:.0f} s" + (f", about {left:.0f} s left" if left else "")
        self.stream.write(f"{line}  {text}"[: shutil.get_terminal_size().columns - 1])
        self.stream.flush()

    def _emit(self, **fields: str) -> None:
        self.shown_at = time.monotonic()
        line = {"step": self.title, "done": self.done, "total": self.total, **fields}
        self.stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.stream.flush()

    def _erase(self) -> None:
        self.stream.write("\r\x1b[2K")
