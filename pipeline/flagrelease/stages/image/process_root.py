"""Lay out an image's files in a workspace folder, for processes that run without containers."""

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
"""Prints the names of the given packages and of their installed dependencies."""

_INSTALL_SECONDS = 1200.0
_NOT_COMPILED = "/(tests?|testing|examples)/"


def digest(plan: build_context.Plan) -> str:
    """sha256 of the build context that Docker would get, with this module in place of the Dockerfile."""
    files = {name: file for name, file in plan.files.items() if name != "Dockerfile"}
    files["process-root"] = (code_version.of_module(__name__).encode(), 0o644)
    target = Hashed()
    build_context.write(replace(plan, files=files), target)  # type: ignore[arg-type]  # tarfile only calls write()
    return f"sha256:{target.sha256}"


def make(root: Path, name: str, plan: build_context.Plan, machine: Machine, engine: str, command: Command) -> Folder:
    """Lay out `plan`, rendered with the paths of `root`, under `root`: packages as the Dockerfile installs them,
    programs and config. `name` is the digest. An interrupted layout is rebuilt from scratch.

    Packages of a base image take precedence, since it is made for its engine; a machine may have any packages. So only
    the packages that `engine` needs come from the machine, all others from the release. Raises CommandFailed, NoSpace.
    """
    existing = complete(root)
    if existing is not None and existing.digest == name:
        return existing
    with translate_disk_errors("laying out the image"), _unfinished(root):
        layout = under(root)
        _python(layout, machine, command)
        _packages(layout, plan.wheels, _needed(machine, ENGINES[engine], command), command)
        copied = {"programs": layout.root, "config": layout.config, BUNDLE: layout.bundle}
        for path, (data, mode) in plan.files.items():
            folder, _, inner = path.partition("/")
            if folder in copied:
                write_atomic(Path(copied[folder], inner), data, mode=mode)
        _engine_programs(layout, machine, ENGINES[engine])
        size = sum(path.stat(follow_symlinks=False).st_size for path in root.rglob("*"))
        made = Folder(digest=name, size=size, labels=plan.labels, entrypoint=ENTRYPOINT)
        write_atomic(root / IMAGE, msgspec.json.encode(made))
    return made


def complete(root: Path) -> Folder | None:
    """The image laid out under `root`, or None while it is incomplete."""
    try:
        return msgspec.json.decode((root / IMAGE).read_bytes(), type=Folder)
    except (OSError, msgspec.DecodeError):
        return None


@contextmanager
def _unfinished(root: Path) -> Iterator[None]:
    """Mark `root` as incomplete and owned by this process: its paths are absolute, so it cannot be renamed later."""
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
    """Create a Python that imports the release's packages first, then the machine's. A .pth file has the paths, since
    engines start workers with a different environment."""
    argv: list[str | Path] = [machine.python, "-m", "venv", "--system-site-packages", "--without-pip", layout.prefix]
    command(argv, seconds=_INSTALL_SECONDS, hint="install the `venv` module of the machine's Python")
    own = next(Path(layout.packages).glob("python3*/site-packages"))
    lines = [layout.packages, *(f"import site; site.addsitedir({site!r})" for site in machine.sites)]
    write_atomic(own / "flagos.pth", "".join(f"{line}\n" for line in lines).encode())


def _needed(machine: Machine, engine: ServingEngine, command: Command) -> frozenset[str]:
    """The machine's engine and its dependencies, by package name; empty if the machine has no engine or the release
    includes one."""
    if engine.requirements:
        return frozenset()
    argv: list[str | Path] = [machine.python, "-c", _NEEDS, engine.distribution]
    return frozenset(command(argv, seconds=_INSTALL_SECONDS).stdout.split())


def _packages(layout: Layout, wheels: wheelhouse.Wheelhouse, skip: frozenset[str], command: Command) -> None:
    """Install and compile all packages except `skip`, in the same two steps as the Dockerfile."""
    python = f"{layout.programs}/python3"
    installer = next(wheels.folder / wheel.file for wheel in wheels.wheels if wheel.name == "pip")
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--disable-pip-version-check"]
    argv: list[str | Path] = [
        *(python, "-m", "pip", "install", *options, "--root-user-action=ignore", "--target", layout.packages),
        *(wheels.folder / wheel.file for wheel in wheels.installed if wheel.name not in skip),
    ]
    command(argv, seconds=_INSTALL_SECONDS, env={"PYTHONPATH": str(installer)})
    program = (
        f"import compileall, re; compileall.compile_dir({layout.packages!r}, quiet=2, workers=0, "
        f"rx=re.compile({_NOT_COMPILED!r}))"
    )
    command([python, "-c", program], seconds=_INSTALL_SECONDS, env={"SOURCE_DATE_EPOCH": wheelhouse.EPOCH})


def _engine_programs(layout: Layout, machine: Machine, engine: ServingEngine) -> None:
    """Wrap the machine's engine scripts: their shebang names the machine's Python, which cannot import the release."""
    for name in engine.machine_programs:
        script = shutil.which(name, path=machine.path)
        if script is None or not re.match(rb"#!.*python", Path(script).read_bytes()[:200]):
            continue
        text = f'#!/bin/sh\nexec "{layout.programs}/python3" "{os.path.realpath(script)}" "$@"\n'
        write_atomic(Path(layout.programs, name), text.encode(), mode=0o755)


def sweep(images: Path) -> None:
    """Remove incomplete layouts of killed runs."""
    for mark in images.glob(f"*/{TEMPORARY}*"):
        if abandoned(mark) and complete(mark.parent) is None:
            shutil.rmtree(mark.parent, ignore_errors=True)
