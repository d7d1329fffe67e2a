"""Progress on stderr: one line that updates on a terminal, plain lines otherwise. Base images need not have rich."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

__all__ = ["Progress"]


class Progress:
    """`with Progress("qualify", total=16) as progress: progress.step("mul: crash")`."""

    def __init__(self, title: str, total: int, stream: TextIO | None = None) -> None:
        self.title = title
        self.total = total
        self.done = 0
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.began = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.live:
            self._erase()
        self.stream.write(f"{self.title}: {self.done} of {self.total} in {time.monotonic() - self.began:.1f} s\n")
        self.stream.flush()

    def step(self, text: str) -> None:
        """One unit is finished; `text` says which and how it ended, and stays on the screen."""
        self.done += 1
        if self.live:
            self._erase()
        self.stream.write(f"[{self.done:>{len(str(self.total))}}/{self.total}] {text}\n")
        self.stream.flush()

    def doing(self, text: str) -> None:
        """What goes on right now: the line that updates; nothing where lines cannot."""
        if not self.live:
            return
        self._erase()
        spent = time.monotonic() - self.began
        left = spent / self.done * (self.total - self.done) if self.done else None
        line = f"{self.title} {self.done}/{self.total} {spent:.0f} s" + (f", about {left:.0f} s left" if left else "")
        self.stream.write(f"{line}  {text}"[: shutil.get_terminal_size().columns - 1])
        self.stream.flush()

    def _erase(self) -> None:
        self.stream.write("\r\x1b[2K")
