"""Bytecode, made by the program that runs in the base image; and what that image says, checked."""

from __future__ import annotations

import io
import marshal
import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from importlib.util import MAGIC_NUMBER, cache_from_source, source_hash
from pathlib import Path
from typing import Any

import msgspec
import pytest

import support.served_cell as given
from flagrelease.contract.context import Context
from flagrelease.errors import EnvironmentFault, FlagreleaseError, UpstreamRefused
from flagrelease.ports import python_probe
from flagrelease.ports.container_runner import LocalImage
from flagrelease.stages.image import base_python
from flagrelease.stages.image.base_python import Facts

SOURCES = {
    "a.py": "A = {'x', 'y', 'z'}\ndef f():\n    return 'x' in A\n",
    "pkg/__init__.py": "from a import f\n",
    "pkg/b.c.py": "x = 1\n",
    "pkg/tests/test_b.py": "raise AssertionError\n",
    "pkg/broken.py": "def (:\n",
    "pkg/data.txt": "no source",
    "bin/tool.py": "print(1)\n",
}


def packages(folder: Path) -> Path:
    for name, text in SOURCES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def made(folder: Path, target: Path, **env: str) -> dict[str, bytes]:
    argv = [sys.executable, "-c", base_python._BYTECODE, str(folder), str(target), base_python._NOT_COMPILED]
    subprocess.run(argv, check=True, env={**os.environ, "PYTHONHASHSEED": "0", **env})
    return base_python._read(target, folder)


def test_every_source_has_its_bytecode_and_the_same_each_time(tmp_path: Path) -> None:
    folder = packages(tmp_path / "lib")
    found = made(folder, tmp_path / "one.tar")
    compiled = ("a.py", "pkg/__init__.py", "pkg/b.c.py")
    assert set(found) == {cache_from_source(name) for name in compiled}
    assert found == made(folder, tmp_path / "two.tar", LC_ALL="C", TZ="Asia/Shanghai")
    for name in compiled:
        data = found[cache_from_source(name)]
        assert data[:8] == MAGIC_NUMBER + b"\x03\0\0\0", "validated by the hash of its source"
        assert data[8:16] == source_hash(SOURCES[name].encode())
        assert marshal.loads(data[16:]).co_filename == str(folder / name)  # noqa: S302 - made here
    assert sorted(path.name for path in folder.rglob("__pycache__")) == [], "nothing is written beside the sources"


def archive(target: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(target, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return target


GOOD = MAGIC_NUMBER + b"\x03\0\0\0" + source_hash(SOURCES["a.py"].encode())


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.py", b"x", "belongs to no source"),
        ("__pycache__/other.cpython-311.pyc", GOOD, "belongs to no source"),
        ("../__pycache__/a.cpython-311.pyc", GOOD, "belongs to no source"),
        ("__pycache__/a.cpython-311.pyc", MAGIC_NUMBER + b"\0\0\0\0" + GOOD[8:], "not validated by the hash"),
        ("__pycache__/a.cpython-311.pyc", GOOD[:8] + b"another1", "is of another source"),
    ],
)
def test_what_is_not_bytecode_of_the_packages_is_refused(tmp_path: Path, name: str, data: bytes, why: str) -> None:
    packages(tmp_path / "lib")
    with pytest.raises(UpstreamRefused, match="something else than bytecode") as caught:
        base_python._read(archive(tmp_path / "x.tar", {name: data}), tmp_path / "lib")
    assert caught.value.why.startswith(name)
    assert why in caught.value.why
    assert base_python._read(archive(tmp_path / "x.tar", {"__pycache__/a.cpython-311.pyc": GOOD}), tmp_path / "lib")


def test_an_archive_that_was_cut_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.tar", {"__pycache__/a.cpython-311.pyc": GOOD * 1000})
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UpstreamRefused, match="made no bytecode"):
        base_python._read(path, packages(tmp_path / "lib"))


SEEN = python_probe.Seen(python="3.11.2", executable="/usr/bin/python3", sites=(), system="s", packages={})
FACTS = Facts(
    command="/usr/bin/python3",
    executable="/usr/bin/python3",
    site="/usr/lib/x",
    folders={"/etc": (0o755, 0, 0)},
    moved=(),
    path=(("/usr/lib/x", {}), ("/opt/flagos/lib", {})),
    seen=SEEN,
)


def asked(root: Path, monkeypatch: pytest.MonkeyPatch, *printed: str) -> tuple[Facts, int]:
    """The facts of a base image whose Python prints that, and how often it was asked."""
    left = list(printed)

    class Runner:
        def output(self, *_: Any) -> str:
            return left.pop(0)

    context: Context = given.context(root)
    context = replace(context, ports=replace(context.ports, runner=Runner()))  # type: ignore[arg-type]
    local = LocalImage(id="sha256:b", size=7, labels={})
    monkeypatch.setattr(base_python, "base_image", lambda *_: ("base", local))
    job = given.job(given.cell())
    base_python.facts(job, context, "sha256:b")
    found = base_python.facts(job, context, "sha256:b")
    return found, len(printed) - len(left)


def text(facts: Facts) -> str:
    return "a warning\n" + msgspec.json.encode(facts).decode() + "\n"


def test_a_base_image_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, count = asked(tmp_path, monkeypatch, text(FACTS))
    assert (found, count) == (replace(FACTS, size=7), 1)


@pytest.mark.parametrize(
    ("printed", "error", "what", "why"),
    [
        (text(replace(FACTS, moved=("/opt",))), UpstreamRefused, "no packages can be added", "/opt is a symbolic link"),
        (text(replace(FACTS, executable="")), UpstreamRefused, "no packages can be added", "no absolute paths"),
        (text(replace(FACTS, path=())), UpstreamRefused, "no packages can be added", "flagos.pth is without effect"),
        (
            text(replace(FACTS, seen=replace(SEEN, python="3.9.1"))),
            EnvironmentFault,
            "the base image has Python 3.9.1",
            "matrix.yaml has `python: 3.11`",
        ),
        ("", UpstreamRefused, "does not say what it is", ""),
        ("Segmentation fault", UpstreamRefused, "does not say what it is", "Segmentation fault"),
    ],
)
def test_a_base_image_that_nothing_can_be_added_to_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    printed: str,
    error: type[FlagreleaseError],
    what: str,
    why: str,
) -> None:
    with pytest.raises(error, match=what) as caught:
        asked(tmp_path, monkeypatch, printed)
    assert why in caught.value.why
