"""Supervise the worker that measures sets of operators, and record a set that kills it as guilty.

An operator may kill the process, break the device context or never return. The record names the set being measured, so
the failure becomes its measurement, and a new worker continues with the next set."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from flagkernels.errors import ChipFault
from flagkernels.files import append_line, read_lines

__all__ = ["BEGUN", "CHIP_LOST", "supervise"]

BEGUN = "begun"
"""Key of the line in the record that names the operators measured next."""
CHIP_LOST = 70
"""Exit code of a worker whose device context broke."""


def supervise(argv: Sequence[str], record: Path, *, seconds: float, poll: float = 0.5) -> int:
    """Run the worker, restarting it as needed. Returns its exit code: zero, or that of an error it reported itself.

    `seconds`: limit for one set; `poll`: seconds between checks. Raises ChipFault if it dies with no operator on."""
    while True:
        code = _run(argv, record, seconds, poll)
        if code >= 0 and code != CHIP_LOST:
            return code
        begun = _begun(record)
        if begun is None and code != CHIP_LOST:
            raise ChipFault(
                "the model cannot be measured with its native kernels",
                why=f"the process died of {_name(code)} with no operator active",
                hint="use fewer --tokens, or cut the model with --layers",
            )
        if begun is not None:
            note = f"no answer within {seconds:.0f} s" if code == -signal.SIGKILL else f"died of {_name(code)}"
            _blame(record, begun, note)


def _run(argv: Sequence[str], record: Path, seconds: float, poll: float) -> int:
    """Run one worker; kill it if one set takes more than `seconds`."""
    process = subprocess.Popen(argv)
    size, since = -1, time.monotonic()
    try:
        while True:
            try:
                return process.wait(timeout=poll)
            except subprocess.TimeoutExpired:
                now = record.stat().st_size if record.exists() else 0
                if now != size or _begun(record) is None:
                    size, since = now, time.monotonic()
                elif time.monotonic() - since > seconds:
                    process.kill()
    except BaseException:
        process.kill()
        process.wait()
        raise


def _begun(record: Path) -> list[str] | None:
    """The operators being measured; None if none are."""
    last = None
    for last in read_lines(record):  # noqa: B007 -- only the last line matters
        pass
    return list(last[BEGUN]) if isinstance(last, dict) and BEGUN in last else None


def _blame(record: Path, operators: Sequence[str], note: str) -> None:
    row = {"operators": operators, "excess": None, "shift": None, "sigmas": None, "guilty": True, "note": note}
    append_line(record, row)


def _name(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"
