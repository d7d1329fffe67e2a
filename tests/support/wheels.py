"""flagrelease as users have it: a wheel in an environment of its own, in a folder that has nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "pipeline", "templates")
BUILD = "from setuptools import build_meta; print(build_meta.build_{kind}({target!r}))"


def build(kind: str, source: Path, target: Path) -> Path:
    """The file that setuptools builds of `source`, by the same hook that pip calls."""
    program = BUILD.format(kind=kind, target=str(target))
    done = subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


@dataclass(frozen=True)
class Distributions:
    """What is built of this source."""

    sdist: Path
    wheel: Path
    source: Path
    """The copy that they were built of, since building leaves files in the source."""


def distributions(source: Path, out: Path) -> Distributions:
    """Build both distributions into `out`, of a copy in `source`."""
    for name in SOURCES:
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, source)
        else:
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    return Distributions(build("sdist", source, out), build("wheel", source, out), source)


def install(wheel: Path, venv: Path) -> Path:
    """Install the wheel in a virtual environment that has the packages of this one, and flagrelease from the wheel
    only. Returns its `flagrelease` program."""
    python = venv / "bin/python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    # Python reads no .pth file of a folder that another .pth file names, so the editable flagrelease stays out.
    (packages,) = venv.glob("lib/python3.*/site-packages")
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--force-reinstall", str(wheel)], check=True)
    where = "import flagrelease, flagkernels; print(flagrelease.__file__, flagkernels.__file__)"
    printed = subprocess.run([str(python), "-I", "-c", where], capture_output=True, text=True, check=True).stdout
    assert all(Path(path).is_relative_to(packages) for path in printed.split()), printed
    return venv / "bin/flagrelease"


def outside_python() -> dict[str, str]:
    """The environment without what points Python to this checkout."""
    return {name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
