"""Options and error output shared by all verbs."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from flagrelease.errors import ConfigError, FlagreleaseError
from flagrelease.redact import redact

if TYPE_CHECKING:
    from flagrelease.run.project import Options


PLAN_STATES = ("run", "blocked", "unchanged", "excluded")
"""What a plan does with a cell, in the order in which `plan` shows it."""


def options(arguments: argparse.Namespace) -> Options:
    """The options that are common to all verbs, from the parsed command line."""
    from flagrelease.run.project import Options  # `--help` starts without the matrix and the stages

    return Options(
        matrix=arguments.matrix,
        workspace=arguments.workspace,
        registry=arguments.registry,
        profile=getattr(arguments, "profile", None),
        data_dir=arguments.data_dir,
        runner=getattr(arguments, "runner", "docker"),
    )


def check_rounds(arguments: argparse.Namespace) -> None:
    """Raises ConfigError for a negative --rounds."""
    if arguments.rounds is not None and arguments.rounds < 0:
        raise ConfigError("--rounds must be >= 0", hint="with 0, no operators are looked for after a failed gate")


def user() -> str:
    """The name of the current user, or their number if they have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def show_error(error: FlagreleaseError) -> None:
    """Print what failed and why on one line, the detail indented below, and the hint on the last line. Without a stderr
    that can be written, the exit code has to do."""
    lines = [f"flagrelease: {redact(error.line())}"]
    lines += [f"    {line}" for line in redact(error.detail).splitlines()]
    lines += [f"  → {redact(error.hint)}"] if error.hint else []
    with suppress(OSError, ValueError):
        print("\n".join(lines), file=sys.stderr, flush=True)
