"""Inspect a Python installation (version, platform, packages) by running a script in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

PROGRAM = """
import importlib.metadata as metadata, json, platform, re, site, sys
packages = {}
for found in metadata.distributions():
    packages.setdefault(re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower(), found.version)
try:
    system = platform.freedesktop_os_release()["PRETTY_NAME"]
except OSError:
    system = platform.platform()
print(json.dumps({"python": platform.python_version(), "executable": sys.executable, "sites": site.getsitepackages(),
                  "system": system, "packages": packages}))
"""
"""Prints a Seen as JSON. Of a package that is installed twice the first counts, as for imports."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """An inspected Python installation."""

    python: str
    """MAJOR.MINOR.PATCH."""
    executable: str
    sites: tuple[str, ...]
    """The site-packages folders."""
    system: str
    """The operating system's name and version."""
    packages: Mapping[str, str]
    """Version by normalised name."""


def read(printed: str) -> Seen:
    """Decode the last line of `printed`, the output of PROGRAM; warnings may precede it."""
    return msgspec.json.decode(printed.strip().splitlines()[-1], type=Seen)
