"""Wheels are unpacked as an installer does."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from flagrelease.errors import UpstreamRefused
from flagrelease.packaging.wheelhouse import Wheel, Wheelhouse
from flagrelease.stages.image import wheel_tree
from flagrelease.stages.image.layer import File

WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
FILES = {
    "one/__init__.py": "def main():\n    return 0\n",
    "one/__pycache__/__init__.cpython-312.pyc": "stale",
    "one-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: one\nVersion: 1.0\n",
    "one-1.0.dist-info/WHEEL": WHEEL,
    "one-1.0.dist-info/entry_points.txt": "[console_scripts]\none = one:main\n",
    "one-1.0.data/scripts/tool": "#!python\nprint(1)\n",
    "one-1.0.data/scripts/shell": "#!/bin/sh\n",
    "one-1.0.data/data/share/one.txt": "data",
    "one-1.0.data/headers/one.h": "",
    "one-1.0.data/platlib/one/native.so": "ELF",
}


def wheelhouse(folder: Path, files: dict[str, str], name: str = "one") -> Wheelhouse:
    folder.mkdir(exist_ok=True)
    file = f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(folder / file, "w") as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = (0o100755 if path.endswith("shell") else 0o100600) << 16
            archive.writestr(entry, content)
        archive.writestr(
            f"{name}-1.0.dist-info/RECORD", "".join(f"{path},,\n" for path in [*files, f"{name}-1.0.dist-info/RECORD"])
        )
    return Wheelhouse(folder=folder, wheels=(Wheel(file=file, name=name, version="1.0", sha256="0" * 64),))


def test_a_wheel_lies_where_an_installer_puts_it(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    before = os.umask(0o077)
    try:
        wheel_tree.unpack(wheelhouse(tmp_path / "wheels", FILES), tmp_path / "lib", "/usr/bin/python3.12")
    finally:
        os.umask(before)
    assert list(recwarn) == [], "stale bytecode, which FlagScale ships, is left out without a word for each file"
    others = {path.stat().st_mode & 0o005 for path in (tmp_path / "lib").rglob("*") if path.is_dir()}
    assert others == {0o005}, "the base image's user reads them when it compiles"
    assert (tmp_path / "lib/one/__init__.py").stat().st_mode & 0o004
    entries = wheel_tree.entries(tmp_path / "lib", "opt/lib")
    info = "one-1.0.dist-info"
    modes = {name.removeprefix("opt/lib/"): entry.mode for name, entry in entries.items() if isinstance(entry, File)}
    plain = (f"{info}/{name}" for name in ("METADATA", "WHEEL", "entry_points.txt", "INSTALLER", "RECORD"))
    assert modes == {
        "one/__init__.py": 0o644, "one/native.so": 0o644, "share/one.txt": 0o644, "include/python/one/one.h": 0o644,
        "bin/one": 0o755, "bin/tool": 0o644, "bin/shell": 0o755, **dict.fromkeys(plain, 0o644),
    }  # fmt: skip
    assert (tmp_path / "lib/bin/tool").read_text() == "#!/usr/bin/python3.12\nprint(1)\n"
    assert (tmp_path / "lib/bin/shell").read_text() == "#!/bin/sh\n"
    script = (tmp_path / "lib/bin/one").read_text()
    assert script.startswith("#!/usr/bin/python3.12\n")
    assert "from one import main" in script


def test_the_record_has_every_file_with_its_hash(tmp_path: Path) -> None:
    lib = tmp_path / "lib"
    wheel_tree.unpack(wheelhouse(tmp_path / "wheels", FILES), lib, "/usr/bin/python3")
    rows = [line.split(",") for line in (lib / "one-1.0.dist-info/RECORD").read_text().splitlines()]
    digests = {
        path: "sha256="
        + base64.urlsafe_b64encode(hashlib.sha256((lib / path).read_bytes()).digest()).rstrip(b"=").decode()
        for path, *_ in rows
        if not path.endswith("RECORD")
    }
    assert {path: digest for path, digest, _size in rows if not path.endswith("RECORD")} == digests
    assert {str(path.relative_to(lib)) for path in lib.rglob("*") if path.is_file()} == {path for path, *_ in rows}


@pytest.mark.parametrize("path", ["../outside.py", "one-1.0.data/scripts/../../outside", "one-1.0.data/odd/x"])
def test_a_wheel_that_leaves_its_folder_is_refused(tmp_path: Path, path: str) -> None:
    house = wheelhouse(tmp_path / "wheels", {**FILES, path: "x"})
    with pytest.raises(UpstreamRefused, match=r"one-1\.0-py3-none-any\.whl cannot be unpacked"):
        wheel_tree.unpack(house, tmp_path / "lib", "/usr/bin/python3")
    assert not (tmp_path / "outside.py").exists()


def test_a_damaged_wheel_is_named(tmp_path: Path) -> None:
    house = wheelhouse(tmp_path / "wheels", FILES)
    (path,) = house.folder.iterdir()
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UpstreamRefused, match=r"one-1\.0-py3-none-any\.whl cannot be unpacked"):
        wheel_tree.unpack(house, tmp_path / "lib", "/usr/bin/python3")


def test_of_a_file_that_two_wheels_have_the_later_stays(tmp_path: Path) -> None:
    def sources(name: str) -> dict[str, str]:
        info = {f"{name}-1.0.dist-info/{file}": FILES[f"one-1.0.dist-info/{file}"] for file in ("METADATA", "WHEEL")}
        return {"shared.py": name, **info}

    first = wheelhouse(tmp_path / "wheels", sources("one"))
    second = wheelhouse(tmp_path / "wheels", sources("two"), "two")
    both = Wheelhouse(folder=first.folder, wheels=(*first.wheels, *second.wheels))
    wheel_tree.unpack(both, tmp_path / "lib", "/usr/bin/python3")
    assert (tmp_path / "lib/shared.py").read_text() == "two"
