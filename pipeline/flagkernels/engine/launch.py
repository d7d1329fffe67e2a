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
"""Environment variable: the folder for what each process calls (record.py); set, no bundle is activated."""
STARTUP = Path(__file__).parent / "startup"
"""Holds the sitecustomize.py that calls flagkernels."""
IMPORT_ROOT = Path(__file__).parents[2]
"""The folder that `import flagkernels` needs on sys.path."""


def _found_without(python_path: str) -> bool:
    """True where every Python finds flagkernels by itself: its folder, which may hold other packages, must then not
    take precedence over the machine's own."""
    root = str(IMPORT_ROOT)
    return root in sys.path[1:] and root not in map(os.path.abspath, filter(None, python_path.split(os.pathsep)))


def engine_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """The program of a command line, and its words. Raises UsageError where there is none, or it is not found."""
    command = list(words[1:] if words[:1] == ["--"] else words)
    if not command:
        raise UsageError("no engine to run", hint="python -m flagkernels run -- vllm serve MODEL")
    program = shutil.which(command[0])
    if program is None:
        why = "it is not on PATH, or cannot be executed"
        raise UsageError(f"engine not found: {command[0]!r}", why=why, hint="give the engine's path")
    return program, command


def become(engine: tuple[str, list[str]], more: Mapping[str, str]) -> NoReturn:
    """Replaces this process with the engine; every Python process of it loads flagkernels."""
    given = os.environ.get("PYTHONPATH", "")
    places = [str(STARTUP), *([] if _found_without(given) else [str(IMPORT_ROOT)]), *filter(None, [given])]
    environment = {**os.environ, **more, "PYTHONPATH": os.pathsep.join(places)}
    sys.stdout.flush()
    os.execve(*engine, environment)  # noqa: S606 -- no shell: the engine takes this process over
