"""The packages of an image, and the wheelhouse that holds them."""

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

import support.served_cell as given
from flagrelease.config.lockfile import LockedWheels
from flagrelease.errors import CommandFailed, ConfigError, Corrupt
from flagrelease.packaging import requirements, wheelhouse
from flagrelease.ports.command import Completed, run
from flagrelease.run.cleanup import leftovers
from flagrelease.store.workspace import Workspace

LOCKED = LockedWheels(inputs=("python==3.11", "one"), requirements=("one==1.0 --hash=sha256:" + "1" * 64,))


class Pip:
    """Stands in for the index: `download` writes a wheel to its --dest."""

    def __init__(self, *files: str, fails: str = "") -> None:
        self.files, self.fails, self.calls = files, fails, 0

    def __call__(self, argv: object, **_: object) -> Completed:
        arguments = [str(argument) for argument in argv]  # type: ignore[attr-defined]
        self.calls += 1
        if self.fails:
            raise CommandFailed("`pip download` ended with 1", why="hashes", detail=self.fails)
        folder = Path(arguments[arguments.index("--dest") + 1])
        for name in self.files:
            with zipfile.ZipFile(folder / name, "w") as wheel:
                wheel.writestr("one.py", "")
        return Completed(0, "", "")


def test_the_python_of_the_base_comes_first() -> None:
    wanted = requirements.wanted(given.cell())
    assert wanted[0] == "python==3.11"
    assert {"flag-scale==0.8.0", "pip"} < set(wanted)
    assert any(requirement.startswith("xllamacpp==") for requirement in wanted)
    assert not any(requirement.startswith("flag-gems") for requirement in wanted)


def test_a_chip_with_flaggems_gets_it_and_no_engine_of_ours() -> None:
    wanted = requirements.wanted(given.cell("nvidia-h100/qwen3-8b"))
    assert "flag-gems==5.0.2" in wanted
    assert not any(requirement.startswith(("vllm", "xllamacpp")) for requirement in wanted)


def test_whatever_decides_the_content_decides_the_name() -> None:
    others = [replace(LOCKED, inputs=("python==3.12", "one")), replace(LOCKED, requirements=("one==1.1",))]
    assert len({wheelhouse.digest(locked) for locked in (LOCKED, *others)}) == 3


def test_a_wheelhouse_is_gathered_once(tmp_path: Path) -> None:
    pip = Pip("one-1.0-py3-none-any.whl")
    first, second = wheelhouse.gather(LOCKED, tmp_path, pip), wheelhouse.gather(LOCKED, tmp_path, pip)
    assert first == second
    assert pip.calls == 1
    assert [(wheel.name, wheel.version) for wheel in first.wheels] == [("one", "1.0")]
    assert [path.name for path in tmp_path.iterdir()] == [first.folder.name], "nothing unfinished is left"


KILLED = """
import os, sys
from pathlib import Path
from flagrelease.packaging import requirements, wheelhouse
from flagrelease.config.lockfile import LockedWheels

def command(argv, **_):
    os.kill(os.getpid(), 9)

wheelhouse.gather(LockedWheels(inputs=("python==3.11",), requirements=()), Path(sys.argv[1]), command)
"""


def test_what_a_killed_run_had_fetched_is_swept(tmp_path: Path) -> None:
    root = tmp_path / "wheels"
    source = Path(wheelhouse.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED, str(root)], check=False, timeout=60, cwd=source)
    assert done.returncode == -9
    assert len(list(root.iterdir())) == 1
    nothing: Any = None
    leftovers([], Workspace(tmp_path), nothing)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("damage", ["flip", "remove", "index"])
def test_a_damaged_wheelhouse_is_gathered_again(tmp_path: Path, damage: str) -> None:
    pip = Pip("one-1.0-py3-none-any.whl")
    first = wheelhouse.gather(LOCKED, tmp_path, pip)
    file = first.folder / ("wheels.json" if damage == "index" else first.wheels[0].file)
    if damage == "remove":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data if damage == "flip" else data[:-5])
    again = wheelhouse.gather(LOCKED, tmp_path, pip)
    assert pip.calls == 2
    assert (again.folder / again.wheels[0].file).exists()


def test_other_bytes_than_locked_are_refused(tmp_path: Path) -> None:
    message = "THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."
    with pytest.raises(Corrupt, match=r"does not match matrix\.lock"):
        wheelhouse.gather(LOCKED, tmp_path, Pip(fails=message))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no wheel was built for one==1\.0"):
        wheelhouse.gather(LOCKED, tmp_path, Pip())


def test_the_list_of_wheels_is_plain_json(tmp_path: Path) -> None:
    gathered = wheelhouse.gather(LOCKED, tmp_path, Pip("one-1.0-py3-none-any.whl"))
    assert msgspec.json.decode((gathered.folder / "wheels.json").read_bytes())[0]["file"] == "one-1.0-py3-none-any.whl"


def test_a_wheel_of_our_own_does_not_depend_on_the_user_s_umask(tmp_path: Path) -> None:
    project = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    files = {
        "pyproject.toml": project
        + '[project]\nname = "one"\nversion = "1.0"\n[tool.setuptools]\npy-modules = ["one"]\n',
        "one.py": "x = 1\n",
        "PKG-INFO": "Metadata-Version: 2.1\nName: one\nVersion: 1.0\n",
    }
    with tarfile.open(tmp_path / "one-1.0.tar.gz", "w:gz") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"one-1.0/{name}")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    before = os.umask(0o077)
    try:
        wheelhouse._build(tmp_path, run)
    finally:
        os.umask(before)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        modes = {entry.filename: oct(entry.external_attr >> 16 & 0o777) for entry in archive.infolist()}
    assert modes["one.py"] == "0o644"
    assert set(modes.values()) <= {"0o644", "0o664"}, "setuptools gives RECORD a mode of its own"
