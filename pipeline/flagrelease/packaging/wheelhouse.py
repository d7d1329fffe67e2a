"""The Python packages that go into an image: resolved and hash-locked on the host, kept as a folder of wheels."""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from flagrelease.config.cell import Cell
from flagrelease.config.engines import ENGINES
from flagrelease.config.lockfile import LockedWheels
from flagrelease.errors import CommandFailed, ConfigError, Corrupt, EnvironmentFault
from flagrelease.ports.command import Command
from flagrelease.store.digests import file_sha256
from flagrelease.store.files import translate_disk_errors, unfinished, write_atomic

if TYPE_CHECKING:
    from flagrelease.contract.context import Context
    from flagrelease.contract.job import Job

MANYLINUX = "manylinux_2_28_x86_64"
"""The oldest glibc that the packages have to run on: RHEL 8, Debian 11, Ubuntu 20.10."""

EPOCH = "946684800"
"""Date of the files in wheels that are built here (2000-01-01), so that building again gives the same bytes."""

_COMPILE_SECONDS = 300.0
_FETCH_SECONDS = 1800.0
_NO_INDEX = "check the network, what was downloaded is in pip's cache; or `flagrelease fetch` where there is one"

# FlagScale 0.8.0 requires torch, ray, wandb and its developers' tools in its metadata; `serve` with
# use_fs_serve off imports these only.
_FLAGSCALE_NEEDS = ("aiohttp", "click", "hydra-core", "numpy", "packaging", "pandas", "psutil", "pyyaml", "tqdm")
_LONE = ("flag-scale",)
"""Packages that are taken without what their metadata requires."""


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel in the house. `built_from` is the sha256 of the source archive where no wheel was published."""

    file: str
    name: str
    version: str
    sha256: str
    built_from: str = ""


@dataclass(frozen=True, kw_only=True)
class Wheelhouse:
    """A folder of verified wheels, enough to install all of them without an index."""

    folder: Path
    wheels: tuple[Wheel, ...]

    @property
    def installed(self) -> tuple[Wheel, ...]:
        """The wheels that end up in the image: all but the installer."""
        return tuple(wheel for wheel in self.wheels if wheel.name != "pip")


def wanted(cell: Cell) -> tuple[str, ...]:
    """What the packages are resolved from: requirements, and first the Python of the base image."""
    parts, engine = cell.chip.components, ENGINES[cell.model.serve.engine]
    requirements = [f"flag-scale=={parts.flagscale}", *_FLAGSCALE_NEEDS, *engine.requirements, "pip"]
    if parts.flaggems != "none":
        requirements.append(f"flag-gems=={parts.flaggems}")
    return (f"python=={cell.chip.python}", *sorted(requirements))


def resolve(inputs: Sequence[str], command: Command) -> LockedWheels:
    """Resolve `inputs` (of `wanted`) against the index, with the hash of every file.

    Raises CommandFailed with the resolver's words where a version does not exist or no solution does.
    """
    python = inputs[0].removeprefix("python==")
    lone = [text for text in inputs[1:] if _package(text) in _LONE]
    others = [text for text in inputs[1:] if _package(text) not in _LONE]
    found = [*_compile(lone, python, command, "--no-deps"), *_compile(others, python, command)]
    return LockedWheels(inputs=tuple(inputs), requirements=tuple(sorted(found)))


def _compile(requirements: Sequence[str], python: str, command: Command, *options: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder, "requirements.in")
        asked.write_text("".join(f"{line}\n" for line in requirements))
        argv: list[str | Path] = [
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", "--generate-hashes"),
            *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
            *("--python-version", python, "--python-platform", "x86_64-" + MANYLINUX.removesuffix("_x86_64")),
            *options,
            asked,
        ]
        hint = "check the versions under `components` in matrix.yaml, and the network"
        printed = command(argv, seconds=_COMPILE_SECONDS, hint=hint).stdout
    lines = re.sub(r" *\\\n *", " ", printed).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def digest(locked: LockedWheels) -> str:
    """The name of the wheelhouse: sha256 (hex) of everything that decides what is in it."""
    text = "\n".join([MANYLINUX, EPOCH, *locked.inputs, "", *locked.requirements])
    return hashlib.sha256(text.encode()).hexdigest()


def of(job: Job, context: Context) -> Wheelhouse:
    """The packages of the job's image, gathered into the workspace. Raises ConfigError where none are locked, and what
    `gather` raises."""
    job.lock.require("wheels", job.cell.wheels_entry)
    with context.meter.waiting():
        return gather(job.lock.wheels[job.cell.wheels_entry], context.workspace.wheels, context.ports.command)


def gather(locked: LockedWheels, root: Path, command: Command) -> Wheelhouse:
    """The wheelhouse of `locked` under `root`: as it is there, verified, or fetched and built.

    Every download is checked against the lock by pip. Raises CommandFailed, Corrupt, NoSpace, EnvironmentFault.
    """
    folder = root / digest(locked)[:32]
    if house := _verified(folder):
        return house
    with translate_disk_errors("fetching Python packages"):
        root.mkdir(parents=True, exist_ok=True)
        # Work goes into a folder of its own and is renamed when it is whole.
        with tempfile.TemporaryDirectory(dir=root, prefix=unfinished()) as scratch:
            work = Path(scratch, "wheels")
            work.mkdir()
            _fetch(locked, work, command)
            _build(work, command)
            _write_index(locked, work)
            if folder.exists():
                folder.rename(Path(scratch, "damaged"))
            work.rename(folder)
    house = _verified(folder)
    if house is None:
        raise Corrupt("the wheelhouse changed while it was written", why=str(folder), hint="run again")
    return house


def _fetch(locked: LockedWheels, work: Path, command: Command) -> None:
    python = locked.inputs[0].removeprefix("python==")
    asked = work / "requirements.txt"
    asked.write_text("".join(f"{line}\n" for line in locked.requirements))
    tags = [MANYLINUX, "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_5_x86_64", "manylinux1_x86_64"]
    argv: list[str | Path] = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps", "--no-build-isolation"),
        *("--dest", work, "--requirement", asked, "--implementation", "cp", "--python-version", python),
        *(word for tag in tags for word in ("--platform", tag)),
    ]
    try:
        command(argv, seconds=_FETCH_SECONDS, hint=_NO_INDEX)
    except CommandFailed as error:
        if "DO NOT MATCH THE HASHES" in error.detail.upper():
            raise Corrupt(
                "a Python package is not what matrix.lock says",
                why=error.why,
                hint="do not use it; if it was published anew, `flagrelease lock` shows the change",
                detail=error.detail,
            ) from None
        raise


def _build(work: Path, command: Command) -> None:
    """Make a wheel of every source archive. It must fit any Python, since ours is not the image's."""
    for source in sorted([*work.glob("*.tar.gz"), *work.glob("*.zip")]):
        with tempfile.TemporaryDirectory(dir=work) as made:
            # Built with our own setuptools, which is locked; an isolated build would fetch whatever is newest.
            argv: list[str | Path] = [
                *(
                    sys.executable,
                    "-m",
                    "pip",
                    "wheel",
                    "--quiet",
                    "--no-deps",
                    "--no-build-isolation",
                    "--no-cache-dir",
                ),
                *("--no-index", "--wheel-dir", made, source),
            ]
            command(argv, seconds=_FETCH_SECONDS, env={"SOURCE_DATE_EPOCH": EPOCH, "PYTHONHASHSEED": "0"})
            (wheel,) = Path(made).glob("*.whl")
            if not wheel.name.endswith("-none-any.whl"):
                raise EnvironmentFault(
                    f"{source.name} builds a wheel for this machine only",
                    why=wheel.name,
                    hint="choose a version with wheels",
                )
            wheel.rename(work / wheel.name)
        source.rename(source.with_name(source.name + ".source"))


def _write_index(locked: LockedWheels, work: Path) -> None:
    """List the folder, last of all: a folder without the list is unfinished."""
    sources = {_package(path.name): file_sha256(path) for path in work.glob("*.source")}
    wheels = []
    for path in sorted(work.glob("*.whl")):
        package, version = path.name.split("-")[:2]
        package = _package(package)
        wheels.append(
            Wheel(
                file=path.name,
                name=package,
                version=version,
                sha256=file_sha256(path),
                built_from=sources.get(package, ""),
            )
        )
    names = {wheel.name for wheel in wheels}
    lacking = [line.split()[0] for line in locked.requirements if _package(line) not in names]
    if lacking:
        raise ConfigError(f"no wheel came of {', '.join(lacking)}", hint="run `flagrelease lock`")
    for path in [*work.glob("*.source"), work / "requirements.txt"]:
        path.unlink()
    write_atomic(work / "wheels.json", msgspec.json.format(msgspec.json.encode(wheels), indent=1))


def _verified(folder: Path) -> Wheelhouse | None:
    """The wheelhouse in `folder`, or nothing where a file is missing or changed."""
    try:
        wheels = msgspec.json.decode((folder / "wheels.json").read_bytes(), type=tuple[Wheel, ...])
        whole = all(file_sha256(folder / wheel.file) == wheel.sha256 for wheel in wheels)
    except (OSError, msgspec.DecodeError):
        return None
    return Wheelhouse(folder=folder, wheels=wheels) if whole else None


def _package(text: str) -> str:
    """The normalised name that a requirement or a file name starts with."""
    found = re.match(r"[A-Za-z0-9._-]*?(?=-[0-9]|[ =<>!~;\[]|$)", text)
    return re.sub(r"[-_.]+", "-", found.group(0) if found else text).lower()
