"""Progress displays: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from flagrelease.contract.units import size_text
from flagrelease.ports.progress import Count, Progress
from flagrelease.redact import redact

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from flagrelease.run.outcome import Outcome

_PLAIN_EVERY_SECONDS = 10.0
_BEAT_SECONDS = 60.0
_FRAME_LINES = 3  # heading, the line of folded cells, and the cursor
_ECHO_COLUMNS = 3  # `^C`, which the terminal echoes behind the table: it must not wrap
MARKS = {
    "done": "✓",
    "reused": "=",
    "skipped": "–",
    "failed": "✗",
    "not run": "·",
    "interrupted": "!",
    "remedied": "↻",
    "running": "▸",
    "waiting": " ",
}
_VERDICTS = {"FAIL": "✗", "INCONCLUSIVE": "?"}
"""Marks of verdicts that are not a pass: a stage with one has ended, but it is not green."""
_COLOURS = {"done": "green", "reused": "green", "failed": "bold red", "interrupted": "yellow", "running": "cyan"}
_COLOURS |= {"FAIL": "bold red", "INCONCLUSIVE": "yellow"}
_URGENCY = ("running", "failed", "interrupted", "remedied", "not run", "done", "reused", "skipped", "waiting")


def shown_state(outcome: Outcome) -> str:
    """The outcome's mark and state; those of its verdict if that is not a PASS."""
    return marked(outcome.verdict if outcome.verdict in _VERDICTS else outcome.status)


def marked(state: str) -> str:
    """`✓ done`, `✗ FAIL`."""
    return f"{_VERDICTS.get(state) or MARKS[state]} {state}"


@dataclass
class _Row:
    state: str = "waiting"
    started: float | None = None
    seconds: float = 0.0
    text: str = ""
    count: Count | None = None
    rate_since: float = 0.0
    rate_from: int = 0
    verdict: str = ""

    @property
    def label(self) -> str:
        """The row's state; the verdict if that is not a PASS."""
        return self.verdict if self.verdict in _VERDICTS else self.state

    def settle(self, outcome: Outcome) -> None:
        self.state, self.verdict = outcome.status, outcome.verdict
        self.seconds, self.text = outcome.spent.seconds, outcome.reason

    def begin(self, doing: str) -> None:
        self.state, self.started, self.text, self.count = "running", time.monotonic(), doing, None
        self.verdict = ""

    def update(self, text: str, count: Count | None) -> None:
        if count is not None and (self.count is None or self.count.unit != count.unit or count.done < self.count.done):
            self.rate_since, self.rate_from = time.monotonic(), count.done
        self.text, self.count = text, count

    def elapsed(self) -> float:
        return time.monotonic() - self.started if self.state == "running" and self.started else self.seconds

    def shown(self) -> str:
        """The text with its count, rate and estimated time left."""
        count = self.count
        if count is None or self.state != "running":
            return self.text
        parts = [progress(count)]
        since = time.monotonic() - self.rate_since
        moved = count.done - self.rate_from
        if since > 0.5 and moved > 0 and (count.total or count.unit == "B"):
            rate = moved / since
            parts.append(f"{amount(rate, count.unit) if count.unit == 'B' else f'{rate:.1f}'}/s")
            if count.total and count.total > count.done:
                parts.append(f"{spell((count.total - count.done) / rate)} left")
        return f"{self.text}  {', '.join(parts)}"


def progress(count: Count) -> str:
    """`12 of 200 questions`, `1.2 MB of 98.4 MB`."""
    if not count.total:
        return amount(count.done, count.unit)
    done = amount(count.done, "B") if count.unit == "B" else f"{count.done}"
    return f"{done} of {amount(count.total, count.unit)}"


def amount(value: float, unit: str) -> str:
    """A human-readable amount: bytes with an SI prefix, other units unscaled."""
    return size_text(value) if unit == "B" else f"{value:.0f} {unit}"


def spell(seconds: float) -> str:
    """A human-readable duration."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, remainder = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {remainder:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


@dataclass
class _Line:
    """Progress of one stage, shown in one row of a board."""

    board: PlainBoard | LiveBoard
    cell: str
    stage: str

    def doing(self, text: str, count: Count | None = None) -> None:
        self.board.update(self.cell, self.stage, text, count)

    def note(self, text: str) -> None:
        self.board.say(f"{self.cell}  {self.stage}  {text}")


@dataclass
class PlainBoard:
    """For logs and pipes: a line when a stage starts and when it ends, and in between at most one every ten seconds,
    and at least one every minute. On a terminal the lines have no time."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    beat_seconds: float = _BEAT_SECONDS
    """After so long without a line of a running stage, another line says that it is running."""
    _rows: dict[tuple[str, str], _Row] = field(default_factory=dict)
    _last: dict[tuple[str, str], float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> PlainBoard:
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def say(self, text: str) -> None:
        with self._lock:
            self._print(text)

    def begin(self, cell: str, stage: str, doing: str) -> None:
        with self._lock:
            self._rows.setdefault((cell, stage), _Row()).begin(doing)
            self._last[cell, stage] = time.monotonic()
            self._print(f"{cell}  {stage:<9} {doing}")

    def progress(self, cell: str, stage: str) -> Progress:
        return _Line(self, cell, stage)

    def update(self, cell: str, stage: str, text: str, count: Count | None) -> None:
        with self._lock:
            row = self._rows.setdefault((cell, stage), _Row())
            row.update(text, count)
            if time.monotonic() - self._last.get((cell, stage), 0.0) >= _PLAIN_EVERY_SECONDS:
                self._last[cell, stage] = time.monotonic()
                self._print(f"{cell}  {stage:<9} {row.shown()}")

    def settle(self, outcome: Outcome) -> None:
        with self._lock:
            self._rows.setdefault((outcome.cell, outcome.stage), _Row()).settle(outcome)
            took = f"  {spell(outcome.spent.seconds)}" if outcome.status == "done" else ""
            self._print(f"{outcome.cell}  {outcome.stage:<9} {shown_state(outcome)}{took}  {outcome.reason}")

    def _beat(self) -> None:
        """Until the run ends, print a line of each running stage that has printed none for a while."""
        while not self._ended.wait(self.beat_seconds / 4):
            with self._lock:
                now = time.monotonic()
                for (cell, stage), row in self._rows.items():
                    if row.state == "running" and now - self._last.get((cell, stage), 0.0) >= self.beat_seconds:
                        self._last[cell, stage] = now
                        self._print(f"{cell}  {stage:<9} running for {spell(row.elapsed())}: {row.shown()}")

    def _print(self, text: str) -> None:
        # A closed pipe or a full disk of the log must not end a release.
        with suppress(OSError, ValueError):
            stamp = "" if self.stream.isatty() else f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}  "
            print(f"{stamp}{redact(text)}", file=self.stream, flush=True)


class LiveBoard:
    """A table that updates in place: the stages of a single cell, or one line per cell."""

    def __init__(self, cells: Sequence[str], stages: Sequence[str]) -> None:
        from rich.console import Console

        self._cells, self._stages = list(cells), list(stages)
        self._rows = {(cell, stage): _Row() for cell in cells for stage in stages}
        self._console = Console(stderr=True)
        self._live: Live | None = None

    def __enter__(self) -> LiveBoard:
        from rich.live import Live

        self._live = Live(get_renderable=self._table, console=self._console, refresh_per_second=5, transient=True)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(redact(text), style="dim", markup=False, highlight=False)

    def begin(self, cell: str, stage: str, doing: str) -> None:
        if stage not in self._stages:  # the remedy: most runs have none
            self._stages.append(stage)
            self._rows |= {(each, stage): _Row() for each in self._cells}
        self._rows[cell, stage].begin(doing)

    def progress(self, cell: str, stage: str) -> Progress:
        return _Line(self, cell, stage)

    def update(self, cell: str, stage: str, text: str, count: Count | None) -> None:
        self._rows[cell, stage].update(text, count)

    def settle(self, outcome: Outcome) -> None:
        self._rows.setdefault((outcome.cell, outcome.stage), _Row()).settle(outcome)

    def _table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        single = len(self._cells) == 1
        width = max(self._console.width - _ECHO_COLUMNS, 1)
        table = Table(box=None, pad_edge=False, width=width, title=self._cells[0] if single else None)
        table.title_justify = "left"
        for heading in ("stage" if single else "cell", "state"):
            table.add_column(heading, no_wrap=True)
        table.add_column("time", justify="right", no_wrap=True)
        table.add_column("now", ratio=1, no_wrap=True, overflow="ellipsis")
        rows, folded = self._shown_rows(single)
        for label, row in rows:
            time_text = spell(row.elapsed()) if row.state in ("running", "done", "failed") else ""
            state = Text(marked(row.label), style=_COLOURS.get(row.label, "dim"))
            now = redact(row.shown())  # before the column cuts it, and a secret in it
            table.add_row(label, state, time_text, Text(now, style="" if row.state == "running" else "dim"))
        if folded:
            table.add_row(Text(f"and {folded}", style="dim"), "", "", "")
        return table

    def _shown_rows(self, single: bool) -> tuple[list[tuple[str, _Row]], str]:
        """The rows to show, and the cells in each state for which the terminal has no room, the least urgent ones."""
        if single:
            return [(stage, self._rows[self._cells[0], stage]) for stage in self._stages], ""
        shown = []
        for cell in self._cells:
            rows = [(stage, self._rows[cell, stage]) for stage in self._stages]
            stage, row = next(
                ((s, r) for s, r in rows if r.state in ("running", "failed", "interrupted")),
                next(((s, r) for s, r in reversed(rows) if r.state != "waiting"), rows[0]),
            )
            shown.append((f"{cell}  {stage}", row))
        room = max(self._console.height - _FRAME_LINES, 1)
        if len(shown) <= room:
            return shown, ""
        shown.sort(key=lambda labelled: _URGENCY.index(labelled[1].state))
        states = Counter(row.state for _, row in shown[room:])
        return shown[:room], ", ".join(f"{count} more {state}" for state, count in states.items())


@contextmanager
def announced(
    say: Callable[[str], None], doing: str, remark: str, *, every: float = _PLAIN_EVERY_SECONDS
) -> Iterator[None]:
    """Say that the block begins, that it still runs, and how long it took."""
    ended, start = threading.Event(), time.monotonic()

    def remind() -> None:
        while not ended.wait(every):
            say(f"still {doing} after {spell(time.monotonic() - start)}")

    say(f"{doing} ({remark})")
    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    try:
        yield
    finally:
        ended.set()
        reminder.join()
    say(f"{doing}: done in {spell(time.monotonic() - start)}")


def board(cells: Sequence[str], stages: Sequence[str]) -> PlainBoard | LiveBoard:
    """A LiveBoard if stderr is a terminal, else a PlainBoard."""
    return LiveBoard(cells, stages) if sys.stderr.isatty() else PlainBoard()
