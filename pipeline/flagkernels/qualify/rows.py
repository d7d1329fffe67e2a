"""The verdict of one operator: how it follows from the cases, and its row in the file of verdicts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flagkernels.errors import NothingToDo, UsageError
from flagkernels.files import read_lines
from flagkernels.qualify.cases import Case, digest
from flagkernels.qualify.pool import Outcome
from flagkernels.qualify.worker import UNOPENED, Job

__all__ = ["VERDICTS", "Limits", "Row", "correct_operators", "key_of", "read_rows", "row_of"]

# Ordered from best to worst: an operator's verdict is the worst of its cases.
VERDICTS = ("correct", "nondeterministic", "unsupported", "wrong", "out-of-memory", "hang", "crash")


METHOD_VERSION = 3  # incremented when bounds, cases or values change, which may change verdicts


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of qualification."""

    seconds: float = 180.0
    """Time of one operator."""
    memory: int = 8 << 30
    """Bytes of host memory of one operator."""
    width: int = 1
    """Number of parallel processes."""
    repeats: int = 3
    """Runs on the same input."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The verdict on one operator."""

    key: str
    """Digest of everything that determines the verdict (see `key_of`)."""
    operator: str
    verdict: str
    """One of VERDICTS."""
    reason: str
    at: str
    """The case of the verdict, if it is not correct."""
    cases: int
    passed: int
    dropped: int
    error: float | None
    """Largest error over its bound."""
    native: float | None
    """The same for the vendor's kernel."""
    relative: float | None
    """Largest ‖result − exact‖ / ‖exact‖."""
    seconds: float
    peak_mib: int
    """Maximum resident host memory."""
    results: tuple[dict[str, Any], ...]
    """CaseResult of each case, as JSON."""
    log_tail: str
    """End of the process's output, if the verdict is not correct."""
    seconds_limit: float = 0.0
    """Limits.seconds; 0 in old rows."""
    memory_limit: int = 0
    """Limits.memory; 0 in old rows."""

    def stands(self, limits: Limits) -> bool:
        """True if the verdict holds under these limits: exceeding a limit does not imply exceeding a larger one."""
        if self.verdict == "hang":
            return limits.seconds <= max(self.seconds_limit, self.seconds)
        if self.verdict == "out-of-memory":
            return limits.memory <= self.memory_limit
        return True

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        figures = (
            f"  error {self.error:.2f} of its bound (native {self.native or 0:.2f})" if self.error is not None else ""
        )
        why = f"  {self.reason} at {self.at}" if self.verdict != "correct" else ""
        return f"{self.operator:<20} {self.verdict:<16} {self.passed}/{self.cases} {self.seconds:5.1f} s{figures}{why}"


def row_of(outcome: Outcome[Job], key: str, limits: Limits) -> Row:
    """The row of an operator, from its results and how its process ended."""
    results = outcome.results
    verdict, reason, at = "correct", "", ""
    for result in results:
        if VERDICTS.index(result["verdict"]) > VERDICTS.index(verdict):
            verdict, reason, at = result["verdict"], result.get("reason", ""), result["case"]
    if outcome.ended == UNOPENED:
        verdict, reason, at = "crash", outcome.reason, outcome.at
    elif outcome.ended != "done" and VERDICTS.index(outcome.ended) >= VERDICTS.index(verdict):
        verdict, reason, at = outcome.ended, outcome.reason, outcome.at
    if not results and verdict == "correct":
        reason = "no case could be judged: the native operator rejects them, or float64 does not fit in memory"
        verdict, at = "unsupported", outcome.at
    return Row(
        key=key,
        operator=outcome.job.operator,
        verdict=verdict,
        reason=reason,
        at=at,
        cases=len(outcome.job.cases) - outcome.dropped,
        passed=sum(result["verdict"] == "correct" for result in results),
        dropped=outcome.dropped,
        error=_worst(results, "error"),
        native=_worst(results, "native"),
        relative=_worst(results, "relative"),
        seconds=outcome.seconds,
        peak_mib=outcome.peak_bytes >> 20,
        results=results,
        log_tail="" if verdict == "correct" else outcome.log_tail,
        seconds_limit=limits.seconds,
        memory_limit=limits.memory,
    )


def _worst(results: Iterable[dict[str, Any]], name: str) -> float | None:
    return max((result[name] for result in results if name in result), default=None)


def key_of(
    operator: str, cases: Sequence[Case], *, source: str, device: str, versions: dict[str, str], repeats: int
) -> str:
    """Digest of everything that determines a verdict; a second run skips operators whose key is present."""
    parts = [METHOD_VERSION, operator, digest(cases), source, device, versions, repeats]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def read_rows(path: Path) -> dict[str, Row]:
    """Rows by key; later rows replace earlier ones."""
    rows = {}
    for data in read_lines(path):
        try:
            row = Row(**{**data, "results": tuple(data["results"])})
        except (KeyError, TypeError):
            continue
        rows[row.key] = row
    return rows


def correct_operators(path: Path, wanted: Iterable[str]) -> list[str]:
    """The operators among `wanted` that are qualified as correct.

    Raises UsageError if the file does not exist, NothingToDo if no operator is correct."""
    if not path.exists():
        raise UsageError(f"cannot read {path}", why="the file does not exist", hint="run `qualify` first")
    rows = {row.operator: row for row in read_rows(path).values()}
    correct = [name for name in wanted if name in rows and rows[name].verdict == "correct"]
    if not correct:
        raise NothingToDo(
            f"{path} has no correct operator of this trace", hint="run `qualify` first, or see its verdicts"
        )
    return correct
