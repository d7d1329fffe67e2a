"""Provide bubblewrap, the sandbox for programs written by models (LiveBench's coding questions)."""

import shutil

from host import Done, apt_install, output


def ensure() -> Done:
    """Install bubblewrap if it is missing."""
    installed = shutil.which("bwrap") is None
    if installed:
        apt_install("bubblewrap")
    return Done("installed" if installed else "present", " ".join(output(["bwrap", "--version"]).split()))
