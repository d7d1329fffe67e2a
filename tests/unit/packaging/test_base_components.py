"""What a base image brings is read in it, and has to be what matrix.yaml expects."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import support.served_cell as given
from flagrelease.config.chip import Chip
from flagrelease.config.lockfile import Brought
from flagrelease.config.strict_yaml import FieldError
from flagrelease.errors import EnvironmentFault
from flagrelease.packaging import base_components, requirements


def chip(**components: str) -> Chip:
    found = given.cell("metax/qwen3-8b").chip
    return replace(found, components=replace(found.components, **components))


def site(folder: Path, packages: dict[str, str], modules: dict[str, str] | None = None, origin: str = "") -> Path:
    """A folder of installed packages, and of modules that no package installed."""
    for name, version in packages.items():
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        if origin:
            (info / "direct_url.json").write_text(origin)
    for name, text in (modules or {}).items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(text)
    return folder


def read_in(folder: Path) -> dict[str, Brought]:
    """What the program prints in a Python that has only these packages."""

    def output(argv: list[str]) -> str:
        code = f"import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p] + [{str(folder)!r}]\n"
        isolated = [sys.executable, "-I", "-S", "-c", code + argv[2]]
        return subprocess.run(isolated, check=True, capture_output=True, text=True).stdout

    return base_components.read(output)


def test_versions_and_sources_are_read_without_importing_anything(tmp_path: Path) -> None:
    origin = '{"url": "https://me:secret@example.org/FlagGems.git", "vcs_info": {"vcs": "git", "commit_id": "ed8c864"}}'
    site(tmp_path / "a", {"flag_gems": "3.0"}, origin=origin)
    found = read_in(site(tmp_path / "a", {"torch": "2.8.0+metax3.7.2.0"}))
    assert found["flaggems"] == Brought(
        version="3.0", source="https://example.org/FlagGems.git@ed8c864", place=str(tmp_path / "a")
    )
    assert found["torch"].version == "2.8.0+metax3.7.2.0"
    assert set(found) == {"flaggems", "torch"}


def test_a_module_that_no_package_installed_is_found(tmp_path: Path) -> None:
    text = '__version__ = "3.0"\nraise SystemExit("there is no chip")\n'
    found = read_in(site(tmp_path, {}, {"flag_gems": text}))
    assert found["flaggems"] == Brought(version="3.0", place=str(tmp_path))


@pytest.mark.parametrize(
    ("found", "what"),
    [
        ({}, "has no FlagGems"),
        ({"flaggems": Brought(version="5.3.3")}, "has FlagGems 5.3.3"),
        (
            {name: Brought(version="3.0") for name in ("flaggems", "flagtree", "triton")},
            "has FlagTree and Triton",
        ),
    ],
)
def test_another_base_is_refused(found: dict[str, Brought], what: str) -> None:
    with pytest.raises(EnvironmentFault, match=what):
        base_components.check("metax", chip(), found)


@pytest.mark.parametrize(("version", "wanted"), [("3.0", "3.0"), ("3.0+metax1", "3.0"), ("", "3.0")])
def test_the_expected_base_is_taken(version: str, wanted: str) -> None:
    found = {"flaggems": Brought(version=version)}
    base_components.check("metax", chip(flaggems=wanted), found)
    (remark,) = base_components.remarks(chip(flaggems=wanted), found)
    assert remark.startswith("FlagGems is that of the base image: version 3.0")


def test_what_the_base_brings_is_not_installed() -> None:
    wanted = requirements.wanted(given.cell("metax/qwen3-8b"))
    assert not any(text.startswith("flag-gems") for text in wanted)
    assert "flag-scale==0.8.0" in wanted
    cell = given.cell("metax/qwen3-8b")
    bare = replace(cell, chip=replace(cell.chip, from_base=("flagscale", "flaggems")))
    assert requirements.wanted(bare) == ("python==3.12", "pip")


def test_flagtree_and_flagcx_are_always_those_of_the_base() -> None:
    brought = replace(chip(flagtree="0.6.0", flagcx="0.13.0"), from_base=())
    assert brought.brought == ("flagtree", "flagcx")


@pytest.mark.parametrize(
    ("env", "components", "why"),
    [
        ({"FLAGCX_PATH": " "}, {"flagcx": "0.13.0"}, "is empty"),
        ({"FLAGCX_PATH": "/opt/flagcx"}, {}, "components.flagcx is none"),
    ],
)
def test_a_path_of_flagcx_is_set_or_absent(env: dict[str, str], components: dict[str, str], why: str) -> None:
    found = chip(**components)
    with pytest.raises(FieldError, match=why):
        replace(found, container=replace(found.container, env=env))


def test_a_component_that_is_none_cannot_come_from_the_base() -> None:
    with pytest.raises(FieldError, match="is flaggems, which `components` has as none"):
        chip(flaggems="none")
