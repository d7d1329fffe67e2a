"""The wheel and the source distribution are complete. tests/e2e releases a cell with the wheel."""

from __future__ import annotations

import ast
import re
import shutil
import zipfile
from email import message_from_bytes
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from support.wheels import Distributions, build, distributions

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


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


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    return distributions(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist"))


def test_the_wheel_has_every_source_file_and_the_templates(built: Distributions) -> None:
    found = {name: data for name, data in contents(built.wheel).items() if ".dist-info/" not in name}
    sources = [path for path in (ROOT / "pipeline").rglob("*.py") if path.is_file()]
    sources += (ROOT / "pipeline/flagkernels").glob("*.json")
    sources += (ROOT / "pipeline/flagrelease/rehearsal/engines").glob("*.txt")
    sources += (ROOT / "pipeline/flagrelease/rehearsal/recorded").iterdir()
    sources.append(ROOT / "pipeline/flagrelease/config/vendor_facts.json")
    expected = {path.relative_to(ROOT / "pipeline").as_posix(): path.read_bytes() for path in sources}
    templates = [path for path in (ROOT / "templates").rglob("*") if path.is_file()]
    expected |= {f"flagrelease/{path.relative_to(ROOT).as_posix()}": path.read_bytes() for path in templates}
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
