"""The operator list is read from every layout that FlagGems has had, without importing it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flagkernels.errors import ChipFault, UsageError
from flagkernels.operators import catalogue, flaggems, registry

# The layouts of the tags v3.0, v4.2.0, v5.0.2, v5.3.1 and v5.3.4 of flagos-ai/FlagGems, with two operators each.
LISTED = '(("abs", abs), ("add.Tensor", add), ("add_.Tensor", add))'
INLINE = f"def enable(lib=aten_lib, unused=None):\n    global current\n    current = registrar({LISTED}, unused)\n"
UNTIL_4_2_0 = '__version__ = "3.0"\nregistrar = Register\n' + INLINE
SINCE_4_2_1 = f'__version__ = "5.0.2"\n_FULL_CONFIG = {LISTED}\ndef enable():\n    registrar(_FULL_CONFIG)\n'
SINCE_5_3_1 = f"""
try:
    from flag_gems._version import version as __version__
except ImportError:
    pass
_FULL_CONFIG = {LISTED}
"""


def package(folder: Path, text: str, version: str = "") -> Path:
    (folder / "flag_gems").mkdir()
    (folder / "flag_gems/__init__.py").write_text(text)
    if version:
        (folder / "flag_gems/_version.py").write_text(f"__version__ = version = '{version}'\n")
    return folder


@pytest.mark.parametrize(
    ("text", "stated", "version"),
    [
        (UNTIL_4_2_0, "", "3.0"),
        (SINCE_4_2_1, "", "5.0.2"),
        (SINCE_5_3_1, "5.3.4", "5.3.4"),
        (SINCE_5_3_1, "", "unknown"),
    ],
)
def test_every_layout_is_read(tmp_path: Path, text: str, stated: str, version: str) -> None:
    found = catalogue.load(package(tmp_path, text, stated))
    assert found.version == version
    assert found.overloads == {"abs": "abs", "add.Tensor": "add", "add_.Tensor": "add"}


def test_an_unknown_layout_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no operator list") as refused:
        catalogue.load(package(tmp_path, '__version__ = "9.0"\nOPERATORS = {"abs": abs}\n'))
    assert "3.0, 4.2, 5.0 and 5.3" in refused.value.hint


def test_operators_of_3_0_are_names_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "Register = print\naten_lib = None\ndef add(): ...\n" + UNTIL_4_2_0)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flag_gems", raising=False)
    source = registry.open_source("flag_gems")
    assert set(source.implementations("add")) == {"add.Tensor", "add_.Tensor"}
    with pytest.raises(registry.NotOffered):
        source.implementations("abs_")
    monkeypatch.delitem(sys.modules, "flag_gems")


@pytest.mark.parametrize(
    ("package_here", "libentry", "why"),
    [
        (SimpleNamespace(__version__="3.0"), SimpleNamespace(libcache=SimpleNamespace()), "a table of texts"),
        (
            SimpleNamespace(__version__="4.2.0"),
            SimpleNamespace(libcache=SimpleNamespace(model=1)),
            "does not offer its operator list",
        ),
    ],
)
def test_a_flaggems_that_cannot_be_tuned_says_why(
    package_here: Any, libentry: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "flag_gems", package_here)
    monkeypatch.setitem(sys.modules, "flag_gems.utils", SimpleNamespace())  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "flag_gems.utils.libentry", libentry)
    with pytest.raises(ChipFault, match="cannot be tuned ahead of serving") as refused:
        flaggems.load()
    assert why in refused.value.why


@pytest.mark.slow  # fetches 20 MB of wheels
@pytest.mark.parametrize(("version", "operators"), [("4.2.0", 250), ("5.0.0", 300), ("5.0.2", 350)])
def test_published_packages_are_read(tmp_path: Path, version: str, operators: int) -> None:
    argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path), f"flag-gems=={version}"]
    subprocess.run(argv, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert zipfile.is_zipfile(wheel)
    found = catalogue.load(wheel)
    assert found.version == version
    assert len(found.operators) > operators
    assert found.operator("addmm") == "addmm"
