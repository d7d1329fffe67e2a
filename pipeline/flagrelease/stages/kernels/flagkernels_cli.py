"""Run flagkernels for a cell, in the chip's base image or as a process of this machine, from the packaged sources."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.errors import CommandFailed, ConfigError, EnvironmentFault, FlagreleaseError, GateFailed
from flagrelease.packaging import base_image, one_shot, wheelhouse
from flagrelease.packaging.operator_bundle import FLAGKERNELS, SOURCES
from flagrelease.ports.progress import Count, Progress
from flagrelease.serving import chip_proof
from flagrelease.store.files import translate_disk_errors

__all__ = ["KernelFolders", "call"]

_INSPECT_SECONDS = 120.0
_UNITS = {"trace": "points", "qualify": "operators", "bench": "operators", "select": "choices", "prepare": "steps"}
_TUNE_UNITS = {"tune: compile": "candidates", "tune: time": "keys", "tune: verify": "calls"}


@dataclass(frozen=True)
class KernelFolders:
    """The working folders of a cell's kernels."""

    root: Path
    """The same path on the host and in the container."""

    @property
    def sources(self) -> Path:
        return self.root / "sources"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def bundle(self) -> Path:
        return self.root / "bundle"

    @property
    def packages(self) -> Path:
        return self.root / "packages"

    def fill(self) -> None:
        """Copy the sources of flagkernels alone, without its siblings on this machine."""
        with translate_disk_errors("preparing the kernels"):
            shutil.rmtree(self.sources, ignore_errors=True)
            for name in SOURCES:
                target = self.sources / "flagkernels" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(FLAGKERNELS / name, target)


def call(
    job: Job,
    context: Context,
    folders: KernelFolders,
    *,
    name: str,
    argv: Sequence[str],
    reads: Sequence[Path] = (),
    seconds: float,
) -> None:
    """Run `python -m flagkernels ARGV` on the chip; it may write to `folders` and read `reads`.

    Raises the error that flagkernels reports as ConfigError, GateFailed or EnvironmentFault, or CommandFailed if it
    reports none.
    """
    context.ports.runner.reap(job.cell.id, context.workspace.root)
    if job.runner == "process":
        base_image.check_python(base_image.processes(context).machine, job.cell.chip.python)
    image, _ = base_image.base_image(job, context)
    context.progress.doing("asking for the devices")
    chip_proof.prove(job, one_shot.executing(job, context, image, "devices"), context.progress.note)
    packages = _packages(job, context, folders, image)
    output = _Output(context.progress)
    try:
        one_shot.finish(
            context,
            one_shot.of(
                job,
                context,
                name=name,
                image=image,
                argv=["python3", "-m", "flagkernels", *argv],
                mounts=[
                    *(f"{folders.root}:{folders.root}:rw", f"{folders.sources}:{folders.sources}:ro"),
                    *(f"{path}:{path}:ro" for path in (*reads, packages) if path is not None),
                ],
                env=_environment(job, folders, packages),
            ),
            seconds=seconds,
            line=output.line,
        )
    except CommandFailed as error:
        raise output.error(name, error) from None


def _environment(job: Job, folders: KernelFolders, packages: Path | None) -> dict[str, str]:
    chip = job.cell.chip.container.env
    paths = [str(folders.sources)]
    extra = {}
    if packages is not None:
        paths.append(str(folders.sources / "flagkernels/engine/startup"))
        extra["FLAGKERNELS_PACKAGES"] = str(packages)
    own = chip.get("PYTHONPATH") or (os.environ.get("PYTHONPATH", "") if job.runner == "process" else "")
    return {
        "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [own])]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "FLAGKERNELS_PROGRESS": "json",
        "FLAGKERNELS_BUNDLE": "none",
        **extra,
    }


_HAS_FLAGGEMS = "import importlib.util as u; print('flag_gems', u.find_spec('flag_gems') is not None)"


def _packages(job: Job, context: Context, folders: KernelFolders, image: str) -> Path | None:
    """The folder of the image's unpacked packages, or None if the base image has FlagGems."""
    context.progress.doing("checking the base image for FlagGems")
    probe = one_shot.of(job, context, name="look", image=image, argv=["python3", "-c", _HAS_FLAGGEMS])
    if "flag_gems True" in one_shot.finish(context, probe, seconds=_INSPECT_SECONDS, line=lambda _text: None):
        return None
    wheels = wheelhouse.of(job, context)
    folder = folders.packages / wheels.folder.name
    if not folder.is_dir():
        with translate_disk_errors("unpacking Python packages"):
            shutil.rmtree(folders.packages, ignore_errors=True)
            folders.packages.mkdir()
            with tempfile.TemporaryDirectory(dir=folders.packages) as part:
                for wheel in wheels.installed:
                    with zipfile.ZipFile(wheels.folder / wheel.file) as archive:
                        archive.extractall(f"{part}/packages")
                Path(part, "packages").rename(folder)
    return folder


@cache
def matrix_names() -> Mapping[str, str]:
    """Setting in matrix.yaml by flagkernels option, to translate the hints of flagkernels."""
    table = json.loads((FLAGKERNELS / "options.json").read_text(encoding="utf-8"))
    return {name: row["matrix"] for name, row in table.items() if "matrix" in row}


@dataclass
class _Output:
    """Collects the output of a flagkernels run."""

    progress: Progress
    last_step: str = ""
    failures: list[dict[str, Any]] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)

    def line(self, text: str) -> None:
        event = _decoded(text)
        if event is None:
            self.plain.append(text)
        elif "failed" in event:
            self.failures.append(event)
        elif "step" in event:
            self._show(event)

    def _show(self, event: Mapping[str, Any]) -> None:
        step, done, total = str(event["step"]), int(event["done"]), int(event["total"])
        text = " ".join(str(event.get("text") or event.get("doing", "")).split())
        if step == "qualify" and "text" in event and re.match(r"\w+ (?!correct|of )", text):
            self.progress.note(f"{step}: {text}")
        unit = _UNITS.get(step) or _TUNE_UNITS.get(step, "")
        self.last_step = f"{step}: {text}, {done} of {total} {unit}".rstrip()
        self.progress.doing(f"{step}: {text}", Count(done, total, unit))

    def error(self, name: str, ended: CommandFailed) -> FlagreleaseError:
        """Translate the first error that flagkernels reported; later ones are consequences."""
        log = "\n".join(self.plain[-one_shot.KEPT_LINES :])
        if not self.failures:
            message = self.plain[-1] if self.plain and _decoded(ended.why) else ended.why
            why = "" if _decoded(message) else message
            where = f"the last reported step was `{self.last_step}`" if self.last_step else ""
            hint = "run again to continue from there; kernels.limit in matrix.yaml is the time limit"
            return CommandFailed(
                f"{name}: {ended.what}", why="; ".join(filter(None, (why, where))), hint=hint, detail=log
            )
        failure = self.failures[0]
        what = f"{failure['failed']}: {failure['what']}"
        why, hint = str(failure["why"]), _translated(str(failure["hint"]))
        match failure["code"]:
            case 2:
                return ConfigError(what, why=why, hint=hint, detail=log)
            case 3 | 4:
                native = "serve it with defaults.stack: native"
                return GateFailed(what, why=why, hint=f"{hint}; or {native}" if hint else native, detail=log)
        return EnvironmentFault(what, why=why, hint=hint, detail=log)


def _translated(hint: str) -> str:
    """A hint of flagkernels, with its options replaced by settings of matrix.yaml."""
    translated = re.sub(r"--[a-z-]+", lambda option: matrix_names().get(option[0], option[0]), hint)
    return hint if translated == hint else f"{translated} (in matrix.yaml)"


def _decoded(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        event = json.loads(text)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
