"""The Python packages of an image: resolved and hash-locked on the host, gathered into a folder of wheels."""

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

from flagrelease.config.lockfile import LockedWheels
from flagrelease.errors import CommandFailed, ConfigError, Corrupt, EnvironmentFault
from flagrelease.packaging.requirements import locked_wheels
from flagrelease.ports.command import Command
from flagrelease.redact import PIP, UV, secrets_for
from flagrelease.store.digests import file_sha256
from flagrelease.store.files import translate_disk_errors, unfinished, write_atomic

if TYPE_CHECKING:
    from flagrelease.contract.context import Context
    from flagrelease.contract.job import Job

MANYLINUX = "manylinux_2_28_x86_64"
"""The oldest glibc that the packages must support: RHEL 8, Debian 11, Ubuntu 20.10."""

EPOCH = "946684800"
"""Date of the files in wheels that we build (2000-01-01), so that builds are reproducible."""

_USUAL_UMASK = ("sh", "-c", 'umask 022; exec "$@"', "sh")
"""A wheel has the modes of the files that it is built of, and these those that the user's umask leaves."""

_COMPILE_SECONDS = 300.0
_FETCH_SECONDS = 1800.0
_NO_INDEX = (
    "check the network and run again: finished downloads are in pip's cache; "
    "or run `flagrelease fetch` on a machine with network"
)

_NO_DEPS = ("flag-scale",)
"""Packages that are installed with --no-deps."""


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel of the wheelhouse."""

    file: str
    """The file name."""
    name: str
    """The normalised package name."""
    version: str
    sha256: str
    built_from: str = ""
    """The sha256 of the source archive that we built it from; empty for a published wheel."""


@dataclass(frozen=True, kw_only=True)
class Wheelhouse:
    """A folder of verified wheels that can be installed without an index."""

    folder: Path
    wheels: tuple[Wheel, ...]

    @property
    def installed(self) -> tuple[Wheel, ...]:
        """The wheels that end up in the image: all but the installer."""
        return tuple(wheel for wheel in self.wheels if wheel.name != "pip")


def resolve(inputs: Sequence[str], command: Command) -> LockedWheels:
    """Resolve `inputs` (from requirements.wanted) against the index, with the hash of every file.

    Raises CommandFailed with the resolver's message if a version does not exist or there is no solution.
    """
    python = inputs[0].removeprefix("python==")
    without_dependencies = [text for text in inputs[1:] if _package(text) in _NO_DEPS]
    with_dependencies = [text for text in inputs[1:] if _package(text) not in _NO_DEPS]
    requirements = [
        *_compile(without_dependencies, python, command, "--no-deps"),
        *_compile(with_dependencies, python, command),
    ]
    return LockedWheels(inputs=tuple(inputs), requirements=tuple(sorted(requirements)))


def _compile(requirements: Sequence[str], python: str, command: Command, *options: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        unresolved = Path(folder, "requirements.in")
        unresolved.write_text("".join(f"{line}\n" for line in requirements))
        argv: list[str | Path] = [
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", "--generate-hashes"),
            *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
            *("--python-version", python, "--python-platform", "x86_64-" + MANYLINUX.removesuffix("_x86_64")),
            *options,
            unresolved,
        ]
        hint = "check the versions under `components` in matrix.yaml, and the network"
        printed = command(argv, seconds=_COMPILE_SECONDS, env=secrets_for(*UV), hint=hint).stdout
    lines = re.sub(r" *\\\n *", " ", printed).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def digest(locked: LockedWheels) -> str:
    """The name of the wheelhouse: sha256 (hex) of everything that determines its content."""
    text = "\n".join([MANYLINUX, EPOCH, *locked.inputs, "", *locked.requirements])
    return hashlib.sha256(text.encode()).hexdigest()


def of(job: Job, context: Context) -> Wheelhouse:
    """The wheelhouse of the job's image, in the workspace. Raises the errors of `locked_wheels` and `gather`."""
    locked = locked_wheels(job)
    with context.meter.waiting():
        return gather(locked, context.workspace.wheels, context.ports.command)


def gather(locked: LockedWheels, root: Path, command: Command, *, newer: Sequence[str] = ()) -> Wheelhouse:
    """The wheelhouse of `locked` below `root`: reused if it is intact, else fetched and built. `newer` has platforms
    that are newer than MANYLINUX and fit as well.

    pip checks every download against the lock. Raises CommandFailed, Corrupt, NoSpace, EnvironmentFault, ConfigError.
    """
    folder = root / digest(locked)[:32]
    if wheelhouse := _verified(folder):
        return wheelhouse
    with translate_disk_errors("fetching Python packages"):
        root.mkdir(parents=True, exist_ok=True)
        # Gather in a scratch folder and rename it when it is complete.
        with tempfile.TemporaryDirectory(dir=root, prefix=unfinished()) as scratch:
            work = Path(scratch, "wheels")
            work.mkdir()
            _fetch(locked, work, command, newer)
            _build(work, command)
            _write_index(locked, work)
            if folder.exists():
                folder.rename(Path(scratch, "damaged"))
            work.rename(folder)
    wheelhouse = _verified(folder)
    if wheelhouse is None:
        raise Corrupt("the wheelhouse changed while it was written", why=str(folder), hint="run again")
    return wheelhouse


def _fetch(locked: LockedWheels, work: Path, command: Command, newer: Sequence[str]) -> None:
    python = locked.inputs[0].removeprefix("python==")
    requirements = work / "requirements.txt"
    requirements.write_text("".join(f"{line}\n" for line in locked.requirements))
    older = ("manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_5_x86_64", "manylinux1_x86_64")
    tags = [*newer, MANYLINUX, *older]
    argv: list[str | Path] = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps", "--no-build-isolation"),
        *("--dest", work, "--requirement", requirements, "--implementation", "cp", "--python-version", python),
        *(argument for tag in tags for argument in ("--platform", tag)),
    ]
    try:
        command(argv, seconds=_FETCH_SECONDS, env=secrets_for(*PIP), hint=_NO_INDEX)
    except CommandFailed as error:
        if "DO NOT MATCH THE HASHES" in error.detail.upper():
            raise Corrupt(
                "a Python package does not match matrix.lock",
                why=error.why,
                hint="do not use it; if it was published again, `flagrelease lock` shows the change",
                detail=error.detail,
            ) from None
        raise


def _build(work: Path, command: Command) -> None:
    """Build a wheel of every source archive. It must be pure Python: ours is not the image's Python."""
    for source in sorted([*work.glob("*.tar.gz"), *work.glob("*.zip")]):
        with tempfile.TemporaryDirectory(dir=work) as made:
            # Use our own, locked setuptools: an isolated build would fetch the newest.
            argv: list[str | Path] = [
                *_USUAL_UMASK,
                *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
                *("--no-cache-dir", "--no-index", "--wheel-dir", made, source),
            ]
            command(argv, seconds=_FETCH_SECONDS, env={"SOURCE_DATE_EPOCH": EPOCH, "PYTHONHASHSEED": "0"})
            (wheel,) = Path(made).glob("*.whl")
            if not wheel.name.endswith("-none-any.whl"):
                raise EnvironmentFault(
                    f"{source.name} builds a platform-specific wheel",
                    why=wheel.name,
                    hint="choose a version with published wheels",
                )
            wheel.rename(work / wheel.name)
        source.rename(source.with_name(source.name + ".source"))


def _write_index(locked: LockedWheels, work: Path) -> None:
    """Write the list of wheels, as the last step: a folder without it is unfinished."""
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
    missing = [line.split()[0] for line in locked.requirements if _package(line) not in names]
    if missing:
        raise ConfigError(f"no wheel was built for {', '.join(missing)}", hint="run `flagrelease lock`")
    for path in [*work.glob("*.source"), work / "requirements.txt"]:
        path.unlink()
    write_atomic(work / "wheels.json", msgspec.json.format(msgspec.json.encode(wheels), indent=1))


def _verified(folder: Path) -> Wheelhouse | None:
    """The wheelhouse in `folder`; None if a file is missing or changed."""
    try:
        wheels = msgspec.json.decode((folder / "wheels.json").read_bytes(), type=tuple[Wheel, ...])
        intact = all(file_sha256(folder / wheel.file) == wheel.sha256 for wheel in wheels)
    except (OSError, msgspec.DecodeError):
        return None
    return Wheelhouse(folder=folder, wheels=wheels) if intact else None


def _package(text: str) -> str:
    """The normalised package name at the start of a requirement or a file name."""
    name = re.match(r"[A-Za-z0-9._-]*?(?=-[0-9]|[ =<>!~;\[]|$)", text)
    return re.sub(r"[-_.]+", "-", name.group(0) if name else text).lower()
