"""What runs the programs that models write: bubblewrap, which LiveBench's coding questions are graded in."""

import shutil

from host import Done, apt_install, output


def ensure() -> Done:
    """Install it where it is missing."""
    installed = shutil.which("bwrap") is None
    if installed:
        apt_install("bubblewrap")
    return Done("installed" if installed else "present", " ".join(output(["bwrap", "--version"]).split()))
