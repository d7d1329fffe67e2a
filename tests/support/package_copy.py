"""A copy of the package, extended by a recipe of the README: in the files that it names and in no other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pipeline" / "flagrelease"
TESTS = ROOT / "tests"


class Copy:
    """The package below `root`. Files are called as the README calls them, below pipeline/flagrelease/."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._package = root / "flagrelease"
        for package in (PACKAGE, PACKAGE.parent / "flagkernels"):
            shutil.copytree(package, root / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        self.touched: set[str] = set()

    def write(self, name: str, text: str) -> None:
        path = self._path(name)
        assert not path.exists(), f"{name} is there already"
        path.write_text(text)
        self.touched.add(name)

    def insert(self, name: str, after: str, line: str) -> None:
        """A new line behind the line that begins with `after`."""
        path = self._path(name)
        lines = path.read_text().splitlines(keepends=True)
        (at,) = [number for number, one in enumerate(lines) if one.startswith(after)]
        path.write_text("".join([*lines[: at + 1], f"{line}\n", *lines[at + 1 :]]))
        self.touched.add(name)

    def name_in(self, name: str, literal: str, value: str) -> None:
        """Add a value to a `Literal`."""
        path = self._path(name)
        text, count = re.subn(rf"(?m)^({literal} = Literal\[)", rf'\1"{value}", ', path.read_text())
        assert count == 1, literal
        path.write_text(text)
        self.touched.add(name)

    def module(self, name: str) -> str:
        """The dotted name of a file."""
        return ".".join(self._path(name).relative_to(self._root).with_suffix("").parts)

    def run(self, code: str) -> str:
        """What the code prints in a new interpreter that has this package and the helpers of the tests."""
        env = {**os.environ, "PYTHONPATH": f"{self._root}{os.pathsep}{TESTS}", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=self._root)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def _path(self, name: str) -> Path:
        return self._package / name


def recipe(what: str, name: str) -> set[str]:
    """The files that the README's table names for adding `what`, which may be explained in parentheses, where NAME is
    `name`."""
    rows = re.findall(rf"(?m)^\| {what}(?: \([^|]+\))? \| (.*) \|$", (ROOT / "README.md").read_text())
    assert len(rows) == 1, f"the README has {len(rows)} recipes for {what}"
    return {one.replace("NAME", name) for one in re.findall(r"`([\w/]+\.py)`", rows[0])}
