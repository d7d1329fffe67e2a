"""Supervise the worker that measures sets of operators, and blame the set during which it dies.

An operator may end the process, break the chip's context or never return. The record says what was being measured, so
that this becomes that set's measurement, and a new worker goes on with the next one."""

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
"""The key of a record's line that says which operators are measured next."""
CHIP_LOST = 70
"""Exit code of a worker whose device context broke."""


def supervise(argv: Sequence[str], record: Path, *, seconds: float, poll: float = 0.5) -> int:
    """Runs the worker, as often as it takes. Its exit code: zero, or that of an error which it reported itself.

    Raises ChipFault where it dies and no operator was on."""
    while True:
        code = _run(argv, record, seconds, poll)
        if code >= 0 and code != CHIP_LOST:
            return code
        begun = _begun(record)
        if begun is None and code != CHIP_LOST:
            raise ChipFault(
                "the model cannot be measured with its native kernels",
                why=f"the process died of {_name(code)} while no operator was on",
                hint="give fewer --tokens, or cut the model with --layers",
            )
        if begun is not None:
            note = f"no answer within {seconds:.0f} s" if code == -signal.SIGKILL else f"died of {_name(code)}"
            _blame(record, begun, note)


def _run(argv: Sequence[str], record: Path, seconds: float, poll: float) -> int:
    """One worker; it is killed where one set takes more than `seconds`."""
    process = subprocess.Popen(argv)
    try:
        while True:
            try:
                return process.wait(timeout=poll)
            except subprocess.TimeoutExpired:
                if _begun(record) is not None and time.time() - record.stat().st_mtime > seconds:
                    process.kill()
    except BaseException:
        process.kill()
        process.wait()
        raise


def _begun(record: Path) -> list[str] | None:
    """The operators that are being measured."""
    last = None
    for last in read_lines(record):  # noqa: B007 -- only the last one counts
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
