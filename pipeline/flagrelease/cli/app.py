"""Run one verb and return its exit code. A verb's module in commands/ is imported only when it runs."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from flagrelease.cli.redacted_output import redacted_output
from flagrelease.cli.shared import show_error
from flagrelease.cli.verbs import VERBS, WITH_STAGES, parser
from flagrelease.errors import REPORT, EnvironmentFault, FlagreleaseError, Interrupted, crash_report
from flagrelease.run import interrupt

__all__ = ["VERBS", "main", "parser"]


def _open_closed_streams() -> None:
    """Open closed standard streams (`>&-`): the next file would get their descriptors, and programs write into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", closefd=False, encoding="utf-8", errors="replace"))  # noqa: SIM115


@contextmanager
def _output() -> Iterator[None]:
    """Write all output before the end. Raises EnvironmentFault if standard output cannot be written."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # An error of a file names it, or was translated where it was written.
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        hint = "free some space, or write it elsewhere"
        raise EnvironmentFault(
            "standard output cannot be written", why=error.strerror or str(error), hint=hint
        ) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # characters that the terminal does not know
    with redacted_output(), interrupt.handled() as signals:
        try:
            code = _run(argv)
        except KeyboardInterrupt:
            words = [word for word in (sys.argv[1:] if argv is None else argv) if word in WITH_STAGES]
            show_error(Interrupted("interrupted", hint="run again: finished stages are kept" if words else ""))
            code = Interrupted.exit_code
        if signals.stuck:
            interrupt.leave_stuck(code)
        return code


def _run(argv: Sequence[str] | None) -> int:
    try:
        with _output():
            arguments = parser().parse_args(argv)
            verb = importlib.import_module(f"flagrelease.cli.commands.{arguments.verb}")
            return int(verb.main(arguments))
    except FlagreleaseError as error:
        show_error(error)
        return error.exit_code
    except Exception as error:
        from flagrelease.store.files import machine_fault

        fault = machine_fault(error) or FlagreleaseError(
            "unexpected error in flagrelease",
            why=f"{type(error).__name__}: {error}",
            hint=f"{REPORT}, and with the output of `flagrelease doctor --json`",
            detail=crash_report(error),
        )
        show_error(fault)
        return fault.exit_code
