"""What a Python really has, as seen by a program that runs in it."""

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
"""Prints a Seen. Of a package that is there twice the first one counts, as for imports."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """`sites` are folders of packages; `packages` are versions by normalised name."""

    python: str
    executable: str
    sites: tuple[str, ...]
    system: str
    packages: Mapping[str, str]


def read(printed: str) -> Seen:
    """What PROGRAM printed last, whatever else was printed before it."""
    return msgspec.json.decode(printed.strip().splitlines()[-1], type=Seen)
