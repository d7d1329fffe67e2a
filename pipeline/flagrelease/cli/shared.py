"""Options and errors, alike for every verb."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from flagrelease.errors import FlagreleaseError
from flagrelease.redact import redact

if TYPE_CHECKING:
    from flagrelease.run.project import Options


def options(arguments: argparse.Namespace) -> Options:
    """What the user asked of every verb. The environment is read here, so that nothing below depends on it."""
    from flagrelease.run.project import Options  # `--help` starts without the matrix and the stages

    return Options(
        matrix=arguments.matrix,
        workspace=arguments.workspace,
        registry=arguments.registry,
        profile=getattr(arguments, "profile", None),
        data_dir=arguments.data_dir,
        runner=getattr(arguments, "runner", "docker"),
    )


def show_error(error: FlagreleaseError) -> None:
    """What failed and why on one line, what to do on the next."""
    print(f"flagrelease: {redact(error.line())}", file=sys.stderr)
    if error.detail:
        for line in redact(error.detail).splitlines():
            print(f"    {line}", file=sys.stderr)
    if error.hint:
        print(f"  → {redact(error.hint)}", file=sys.stderr)
