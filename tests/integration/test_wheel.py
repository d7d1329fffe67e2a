"""flagrelease as users have it: a wheel in an environment of its own, in a folder that has nothing."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CELL = "cpu/smollm2-135m"
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "pipeline", "templates")
CHEAPER = {
    "limit: 200": "limit: 12",
    "margin: 0.05": "margin: 0.3",  # with so few questions only a wide one can be decided
    "max_model_len: 8192": "max_model_len: 2048",  # an eighth of it is what the check of long prompts reads
    "ready_seconds: 120": "ready_seconds: 120, args: {threads: 1}",  # other tests keep the other core busy
}
BUILD = "from setuptools import build_meta; print(build_meta.build_{kind}({target!r}))"

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def build(kind: str, source: Path, target: Path) -> Path:
    """The file that setuptools builds of `source`, by the same hook that pip calls."""
    program = BUILD.format(kind=kind, target=str(target))
    done = subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def canonical(requirement: str) -> str:
    """The normalised name of the distribution."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


@dataclass(frozen=True)
class Distributions:
    sdist: Path
    wheel: Path
    source: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Built from a copy, since building leaves files in the source."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, source)
        else:
            left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=left_out)
    return Distributions(build("sdist", source, out), build("wheel", source, out), source)


@dataclass(frozen=True)
class Installed:
    """The wheel in a virtual environment that has the packages of this one, and flagrelease from the wheel only."""

    venv: Path
    folder: Path
    registry: str

    def call(self, *words: str) -> tuple[int, str, str]:
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        env = {**kept, "FLAGRELEASE_ENGINE": "inline", "FLAGRELEASE_REGISTRY": self.registry}
        done = subprocess.run(
            [str(self.venv / "bin/flagrelease"), *words],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def ok(self, *words: str) -> str:
        code, out, err = self.call(*words)
        assert code == 0, err + out
        return out


@pytest.fixture(scope="module")
def installed(built: Distributions, tmp_path_factory: pytest.TempPathFactory, own_registry: str) -> Installed:
    venv = tmp_path_factory.mktemp("environment") / "venv"
    python = venv / "bin/python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    # Python reads no .pth file of a folder that another .pth file names, so the editable flagrelease stays out.
    (packages,) = venv.glob("lib/python3.*/site-packages")
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--force-reinstall", str(built.wheel)], check=True)
    where = "import flagrelease, flagkernels; print(flagrelease.__file__, flagkernels.__file__)"
    said = subprocess.run([str(python), "-I", "-c", where], capture_output=True, text=True, check=True).stdout
    assert all(Path(path).is_relative_to(packages) for path in said.split()), said
    return Installed(venv, tmp_path_factory.mktemp("folder"), f"{own_registry}/wheel")


def test_the_wheel_has_every_source_file_and_the_templates(built: Distributions) -> None:
    found = {name: data for name, data in contents(built.wheel).items() if ".dist-info/" not in name}
    sources = [path for path in (ROOT / "pipeline").rglob("*.py") if path.is_file()]
    sources += (ROOT / "pipeline/flagkernels").glob("*.json")
    expected = {path.relative_to(ROOT / "pipeline").as_posix(): path.read_bytes() for path in sources}
    expected |= {f"flagrelease/templates/{path.name}": path.read_bytes() for path in (ROOT / "templates").iterdir()}
    assert found == expected


def test_the_sdist_builds_the_same_wheel(built: Distributions, tmp_path: Path) -> None:
    shutil.unpack_archive(built.sdist, tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    again = build("wheel", unpacked, tmp_path)
    assert contents(again) == contents(built.wheel)


def test_the_wheel_requires_what_its_code_uses(built: Distributions) -> None:
    """Tests run where the tools of developers are installed too; users have what the wheel requires and no more."""
    (metadata,) = (data for name, data in contents(built.wheel).items() if name.endswith("/METADATA"))
    required = {canonical(line) for line in message_from_bytes(metadata).get_all("Requires-Dist", [])}
    of_module = packages_distributions()
    modules = {
        name.partition(".")[0]
        for path in (ROOT / "pipeline/flagrelease").rglob("*.py")
        if path.parent.name not in ("inside", "payload")  # these run in images
        for name in imported(path)
    }
    used = {canonical(one) for module in modules for one in of_module.get(module, ())} - {"flagrelease"}
    assert len(used) > 10
    assert used <= required
    # Started as programs: by `-m`, by pip to build a wheel, and by the card's download command.
    assert {"uv", "pip", "setuptools", "modelscope"} <= required


def test_a_first_project_plans_and_is_released(installed: Installed, base: str) -> None:
    said = installed.ok("init")
    assert f"docker build --tag {base} base" in said
    assert (installed.folder / "base/Dockerfile").read_text() == (ROOT / "templates/base.Dockerfile").read_text()
    assert "blocked" in installed.ok("plan")
    matrix = (installed.folder / "matrix.yaml").read_text()
    for old, new in CHEAPER.items():
        assert old in matrix
        matrix = matrix.replace(old, new)
    (installed.folder / "matrix.yaml").write_text(matrix)
    assert "models.smollm2-135m" in installed.ok("lock")
    assert "never run" in installed.ok("plan")
    assert "released" in installed.ok("run", CELL).splitlines()[-1]
    (record,) = (installed.folder / ".flagrelease/releases" / CELL).glob("tree_*/release.json")
    assert json.loads(record.read_text())["accuracy"]["verdict"] == "PASS"

    start = time.monotonic()
    assert "nothing to do: " in installed.ok("run", CELL)
    print(f"a second run with nothing to do: {time.monotonic() - start:.2f} s")
