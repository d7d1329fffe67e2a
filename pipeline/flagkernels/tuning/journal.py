"""The journal from which a killed tuning run resumes, and the report of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flagkernels.files import append_line, read_lines
from flagkernels.tuning.candidates import Key
from flagkernels.tuning.capture import Failure

__all__ = ["Journal", "Report", "Tuned"]


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The result for one key of one kernel."""

    operator: str
    kernel: str
    key: tuple[Any, ...]
    config: str
    """The chosen candidate."""
    ms: float
    """Its milliseconds at the largest call that shares the key."""
    state: str
    """tuned, partial (the budget ended first) or borrowed (from the nearest key)."""
    candidates: int
    compiled: int
    """Candidates that could be launched."""
    hopeless: int
    """Candidates ruled out by their times at a neighbouring key."""
    screened: int
    """Candidates that were timed."""
    finalists: int
    """Candidates that were timed repeatedly."""
    seconds: float
    """Time spent on the key."""
    smallest_ms: float | None = None
    """Milliseconds at the smallest call that shares the key, if that was timed as well."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a tuning run."""

    tuned: tuple[Tuned, ...]
    reused: int
    """Keys that were already in the database."""
    missing: tuple[str, ...]
    """Keys without any configuration, which would be tuned at the first request."""
    untunable: tuple[str, ...]
    """Kernels with Triton's autotuner, which stores no choice: tuned at every start."""
    failed: tuple[Failure, ...]
    compiled: int
    """Candidates compiled."""
    compile_failures: Mapping[str, str]
    """Signature of a candidate → error."""
    kernels: tuple[str, ...]
    """Triton's hashes of the kernels in use, for the bundle."""
    tuning_events: int
    """Candidates that FlagGems still timed in the final verification: 0 unless a key is missing."""
    seconds: Mapping[str, float]
    """By phase; `all` is the total."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Journal:
    """The events so far, one synced line each. After a crash it names the candidate to skip."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.crashed: set[tuple[str, str, str]] = set()
        """(table, key, candidate) whose launch killed the process."""
        self.states: dict[tuple[str, str], str] = {}
        """(table, key) → Tuned.state."""
        self.suspects: set[tuple[str, str]] = set()
        """(table, key) begun but not finished: its candidates are launched one at a time."""
        self.close: dict[tuple[str, Key], dict[str, float]] = {}
        """(table, key) → candidate → milliseconds of the finalists at the key's largest call, until it is reconciled
        with its smallest."""
        self.measured: dict[str, dict[Key, dict[str, float]]] = {}
        """Table → key → candidate → milliseconds."""
        launched: tuple[str, str, str] | None = None
        for line in read_lines(path):
            name = (line["table"], line["key"])
            match line["event"]:
                case "begin":
                    self.suspects.add(name)
                case "launch":
                    launched = (*name, line["config"])
                    continue
                case "restart" if launched:
                    self.crashed.add(launched)
                case "end":
                    self.suspects.discard(name)
                    self.states[name] = line["state"]
                    self.measured.setdefault(name[0], {})[tuple(line["values"])] = line["times"]
                    self.close[name[0], tuple(line["values"])] = line["close"]
                case "reconciled":
                    self.close = {n: times for n, times in self.close.items() if (n[0], repr(n[1])) != name}
            launched = None

    def write(self, event: str, table: str = "", key: Key = (), **more: Any) -> None:
        """Append an event. Raises NoSpace or ChipFault if the journal cannot be written."""
        append_line(self.path, {"event": event, "table": table, "key": repr(key), **more})
