"""Inspect a Python installation (version, platform, packages) and its system's packages by running a script in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

PROGRAM = r"""
import glob, importlib.metadata as metadata, json, platform, re, site, sys
packages = {}
for found in metadata.distributions():
    packages.setdefault(re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower(), found.version)
try:
    release = platform.freedesktop_os_release()
except OSError:
    release = {"PRETTY_NAME": platform.platform()}
debian = []
for path in ["/var/lib/dpkg/status", *glob.glob("/var/lib/dpkg/status.d/*")]:  # status.d: images without a dpkg
    try:
        text = open(path, encoding="utf-8", errors="replace").read()
    except OSError:
        continue
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall("^(Package|Version|Architecture|Status): (.+)$", paragraph, re.M))
        if fields.keys() >= {"Package", "Version"} and fields.get("Status", " installed").endswith(" installed"):
            debian.append({"name": fields["Package"], "version": fields["Version"],
                           "architecture": fields.get("Architecture", "")})
print(json.dumps({"python": platform.python_version(), "executable": sys.executable, "sites": site.getsitepackages(),
                  "system": release["PRETTY_NAME"], "packages": packages,
                  "distribution": {"id": release.get("ID", ""), "version": release.get("VERSION_ID", ""),
                                   "packages": debian}}))
"""
"""Prints a Seen as JSON. Of a package that is installed twice the first counts, as for imports."""


@dataclass(frozen=True, kw_only=True)
class DebianPackage:
    """A package that dpkg has installed."""

    name: str
    """Its name."""
    version: str
    """Its version, with the epoch."""
    architecture: str
    """amd64, arm64, all …"""


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """The operating system's distribution."""

    id: str = ""
    """`ID` of /etc/os-release, such as debian or ubuntu."""
    version: str = ""
    """`VERSION_ID` of /etc/os-release."""
    packages: tuple[DebianPackage, ...] = ()
    """Its packages; empty where dpkg has no list."""


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
    distribution: Distribution = Distribution()
    """The operating system's distribution and packages."""


def read(printed: str) -> Seen:
    """Decode the last line of `printed`, the output of PROGRAM; warnings may precede it."""
    return msgspec.json.decode(printed.strip().splitlines()[-1], type=Seen)
