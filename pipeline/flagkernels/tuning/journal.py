"""The journal from which a killed run continues, and the report of a tuning run."""

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
    """The result for one key. Times in milliseconds; `state`: tuned, partial (the budget ended) or borrowed."""

    operator: str
    kernel: str
    key: tuple[Any, ...]
    config: str
    ms: float
    state: str
    candidates: int
    compiled: int
    hopeless: int
    screened: int
    finalists: int
    seconds: float
    smallest_ms: float | None = None
    """At the smallest call that shares the key, where that was timed as well."""


@dataclass(frozen=True, kw_only=True)
class Report:
    tuned: tuple[Tuned, ...]
    reused: int
    """Keys that were in the database before."""
    missing: tuple[str, ...]
    """Keys without any configuration: these would be tuned at the first request."""
    untunable: tuple[str, ...]
    """Kernels that tune by Triton's own tuner, whose choice is not stored: tuned at every start."""
    failed: tuple[Failure, ...]
    compiled: int
    compile_failures: Mapping[str, str]
    kernels: tuple[str, ...]
    """Triton's hashes of the kernels in use, for the bundle."""
    tuning_events: int
    """Candidates that FlagGems still timed in the last run over everything: 0, unless something is missing."""
    seconds: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Journal:
    """The events so far, a synced line each; after a crash it names the candidate to leave out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.crashed: set[tuple[str, str, str]] = set()
        self.states: dict[tuple[str, str], str] = {}
        self.suspects: set[tuple[str, str]] = set()
        self.close: dict[tuple[str, Key], dict[str, float]] = {}
        """Milliseconds of all finalists of a key at its largest call, until it is reconciled with its smallest."""
        self.measured: dict[str, dict[Key, dict[str, float]]] = {}
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
        append_line(self.path, {"event": event, "table": table, "key": repr(key), **more})
