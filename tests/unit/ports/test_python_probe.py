"""The inspection of a Python installation and of the packages of its system."""

import subprocess
import sys
from pathlib import Path

from flagrelease.ports import python_probe
from flagrelease.ports.python_probe import DebianPackage, Seen

STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u13
Description: GNU C Library
 Version: not this one

Package: removed
Status: deinstall ok config-files
Architecture: all
Version: 1

Package: half
Status: install ok unpacked
Version: 1

Package: tzdata
Status: hold ok installed
Architecture: all
Version: 1:2026a-0
"""


def probe(dpkg: Path) -> Seen:
    program = python_probe.PROGRAM.replace("/var/lib/dpkg", str(dpkg))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return python_probe.read(done.stdout)


def test_installed_debian_packages_are_listed(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(STATUS)
    (tmp_path / "status.d").mkdir()
    (tmp_path / "status.d/base").write_text("Package: base-files\nVersion: 12.4\nArchitecture: arm64\n")
    (tmp_path / "status.d/base.md5sums").write_text("0123  usr/share/doc\n")
    seen = probe(tmp_path)
    assert set(seen.distribution.packages) == {
        DebianPackage(name="libc6", version="2.36-9+deb12u13", architecture="amd64"),
        DebianPackage(name="tzdata", version="1:2026a-0", architecture="all"),
        DebianPackage(name="base-files", version="12.4", architecture="arm64"),
    }
    assert "pytest" in seen.packages


def test_a_system_without_dpkg_has_no_list(tmp_path: Path) -> None:
    assert probe(tmp_path).distribution.packages == ()
