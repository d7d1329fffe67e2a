"""Let matplotlib look for fonts in a process without credentials."""

from __future__ import annotations

import sys
from pathlib import Path

from flagrelease.ports.command import run

_SECONDS = 120.0


def find() -> None:
    """Make matplotlib's list of fonts, if there is none. It runs fontconfig's program, which would inherit the
    credentials in this process's environment."""
    import matplotlib as mpl

    if not any(Path(mpl.get_cachedir()).glob("fontlist-*.json")):
        run([sys.executable, "-c", "import matplotlib.font_manager"], seconds=_SECONDS, check=False)
