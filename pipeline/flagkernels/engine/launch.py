"""Replace this process with an engine whose Python processes load flagkernels."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from flagkernels.errors import UsageError

__all__ = ["CALLS", "become", "engine_of"]

CALLS = "FLAGKERNELS_CALLS"
"""Environment variable: the folder for the calls of each process (record.py). If set, no bundle is activated."""
STARTUP = Path(__file__).parent / "startup"
"""Folder of the sitecustomize.py that loads flagkernels."""
IMPORT_ROOT = Path(__file__).parents[2]
"""Folder that must be on sys.path for `import flagkernels`."""


def _importable_without(python_path: str) -> bool:
    """True if every Python finds flagkernels without PYTHONPATH. Its folder may contain other packages, which must
    then not take precedence over the machine's."""
    root = str(IMPORT_ROOT)
    return root in sys.path[1:] and root not in map(os.path.abspath, filter(None, python_path.split(os.pathsep)))


def engine_of(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The path of the engine's program, and its argv. Raises UsageError if there is no command or no such program."""
    command = list(argv[1:] if argv[:1] == ["--"] else argv)
    if not command:
        raise UsageError("no engine to run", hint="python -m flagkernels run -- vllm serve MODEL")
    program = shutil.which(command[0])
    if program is None:
        why = "it is not on PATH, or cannot be executed"
        raise UsageError(f"engine not found: {command[0]!r}", why=why, hint="give the engine's path")
    return program, command


def become(engine: tuple[str, list[str]], more: Mapping[str, str]) -> NoReturn:
    """Replace this process with the engine, whose Python processes all load flagkernels. `more`: extra variables."""
    given = os.environ.get("PYTHONPATH", "")
    paths = [str(STARTUP), *([] if _importable_without(given) else [str(IMPORT_ROOT)]), *filter(None, [given])]
    environment = {**os.environ, **more, "PYTHONPATH": os.pathsep.join(paths)}
    sys.stdout.flush()
    os.execve(*engine, environment)  # noqa: S606 -- no shell: the engine replaces this process
