"""The files of an image under a folder of the workspace, for processes that run without containers."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from flagrelease.config.engines import ENGINES, ServingEngine
from flagrelease.contract import code_version
from flagrelease.packaging import wheelhouse
from flagrelease.ports.command import Command
from flagrelease.ports.processes.runner import IMAGE, Folder, Machine
from flagrelease.recipe.image_paths import BUNDLE, Layout, under
from flagrelease.stages.image import build_context
from flagrelease.store.digests import Hashed
from flagrelease.store.files import TEMPORARY, abandoned, translate_disk_errors, unfinished, write_atomic

ENTRYPOINT = ("flagos-serve",)

_NEEDS = """
import importlib.metadata as metadata, re, sys
todo, seen = sys.argv[1:], set()
while todo:
    name = re.sub(r"[-_.]+", "-", re.match(r"[\\w.-]*", todo.pop()).group()).lower()
    if name not in seen:
        try:
            todo += [text for text in metadata.requires(name) or () if "extra ==" not in text]
            seen.add(name)
        except metadata.PackageNotFoundError:
            pass
print(*seen)
"""
"""Prints the names of a package and of what it requires, as far as they are here."""

_INSTALL_SECONDS = 1200.0
_NOT_COMPILED = "/(tests?|testing|examples)/"


def digest(plan: build_context.Plan) -> str:
    """sha256 over the build context that Docker would be given, with this program in place of the Dockerfile."""
    files = {name: file for name, file in plan.files.items() if name != "Dockerfile"}
    files["process-root"] = (code_version.of_module(__name__).encode(), 0o644)
    target = Hashed()
    build_context.write(replace(plan, files=files), target)  # type: ignore[arg-type]  # a tar needs no more than this
    return f"sha256:{target.sha256}"


def make(root: Path, name: str, plan: build_context.Plan, machine: Machine, engine: str, command: Command) -> Folder:
    """Lay `plan`, whose paths are those of `root`, under `root`: packages as the Dockerfile installs them, programs and
    config. `name` is the digest. What a killed run left is begun anew.

    A base image is made for its engine, and what it has wins; a machine may have anything. So only what the machine's
    `engine` needs is the machine's, and all else the release's own. Raises CommandFailed, NoSpace.
    """
    found = whole(root)
    if found is not None and found.digest == name:
        return found
    with translate_disk_errors("laying out the image"), _unfinished(root):
        layout = under(root)
        _python(layout, machine, command)
        _packages(layout, plan.house, _needed(machine, ENGINES[engine], command), command)
        copied = {"programs": layout.root, "config": layout.config, BUNDLE: layout.bundle}
        for path, (data, mode) in plan.files.items():
            place, _, rest = path.partition("/")
            if place in copied:
                write_atomic(Path(copied[place], rest), data, mode=mode)
        _engine_programs(layout, machine, ENGINES[engine])
        size = sum(path.stat(follow_symlinks=False).st_size for path in root.rglob("*"))
        made = Folder(digest=name, size=size, labels=plan.labels, entrypoint=ENTRYPOINT)
        write_atomic(root / IMAGE, msgspec.json.encode(made))
    return made


def whole(root: Path) -> Folder | None:
    """What is laid out under `root`, once all of it is."""
    try:
        return msgspec.json.decode((root / IMAGE).read_bytes(), type=Folder)
    except (OSError, msgspec.DecodeError):
        return None


@contextmanager
def _unfinished(root: Path) -> Iterator[None]:
    """Paths in it are absolute, so it cannot be renamed when it is whole: a mark says that it is not, and whose."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    mark = root / f"{unfinished()}image"
    mark.touch()
    try:
        yield
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    mark.unlink()


def _python(layout: Layout, machine: Machine, command: Command) -> None:
    """A Python that sees the release's packages, and after them the machine's: a file, since engines start workers
    with an environment of their own."""
    argv: list[str | Path] = [machine.python, "-m", "venv", "--system-site-packages", "--without-pip", layout.prefix]
    command(argv, seconds=_INSTALL_SECONDS, hint="the machine's Python needs its `venv` module")
    own = next(Path(layout.packages).glob("python3*/site-packages"))
    lines = [layout.packages, *(f"import site; site.addsitedir({site!r})" for site in machine.sites)]
    write_atomic(own / "flagos.pth", "".join(f"{line}\n" for line in lines).encode())


def _needed(machine: Machine, engine: ServingEngine, command: Command) -> frozenset[str]:
    """The packages of the machine's own engine and of all that it requires; none where it has none, or the release
    brings the engine."""
    if engine.requirements:
        return frozenset()
    argv: list[str | Path] = [machine.python, "-c", _NEEDS, engine.distribution]
    return frozenset(command(argv, seconds=_INSTALL_SECONDS).stdout.split())


def _packages(layout: Layout, house: wheelhouse.Wheelhouse, leave: frozenset[str], command: Command) -> None:
    """The same two steps as in the Dockerfile, for all packages but those to `leave`."""
    python = f"{layout.programs}/python3"
    installer = next(house.folder / wheel.file for wheel in house.wheels if wheel.name == "pip")
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--disable-pip-version-check"]
    argv: list[str | Path] = [
        *(python, "-m", "pip", "install", *options, "--root-user-action=ignore", "--target", layout.packages),
        *(house.folder / wheel.file for wheel in house.installed if wheel.name not in leave),
    ]
    command(argv, seconds=_INSTALL_SECONDS, env={"PYTHONPATH": str(installer)})
    program = (
        f"import compileall, re; compileall.compile_dir({layout.packages!r}, quiet=2, workers=0, "
        f"rx=re.compile({_NOT_COMPILED!r}))"
    )
    command([python, "-c", program], seconds=_INSTALL_SECONDS, env={"SOURCE_DATE_EPOCH": wheelhouse.EPOCH})


def _engine_programs(layout: Layout, machine: Machine, engine: ServingEngine) -> None:
    """The machine's scripts name the machine's Python in their first line, which does not see the release."""
    for name in engine.machine_programs:
        found = shutil.which(name, path=machine.path)
        if found is None or not re.match(rb"#!.*python", Path(found).read_bytes()[:200]):
            continue
        text = f'#!/bin/sh\nexec "{layout.programs}/python3" "{os.path.realpath(found)}" "$@"\n'
        write_atomic(Path(layout.programs, name), text.encode(), mode=0o755)


def sweep(images: Path) -> None:
    """Remove what killed runs began to lay out."""
    for mark in images.glob(f"*/{TEMPORARY}*"):
        if abandoned(mark) and whole(mark.parent) is None:
            shutil.rmtree(mark.parent, ignore_errors=True)
