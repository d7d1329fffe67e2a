"""Runs flagkernels for a cell: in the chip's base image, or as a process of this machine, with its own sources."""

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
from flagrelease.store.files import translate_disk_errors

__all__ = ["Place", "call"]

_LOOK_SECONDS = 120.0
_UNITS = {"trace": "points", "qualify": "operators", "bench": "operators", "select": "choices", "prepare": "steps"}
_TUNE_UNITS = {"tune: compile": "candidates", "tune: time": "keys", "tune: verify": "calls"}


@dataclass(frozen=True)
class Place:
    """The folder of a cell's kernels: the same path on the host and in the container."""

    root: Path

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
        """flagkernels alone, without what else lies beside it on this machine."""
        with translate_disk_errors("preparing the kernels"):
            shutil.rmtree(self.sources, ignore_errors=True)
            for name in SOURCES:
                target = self.sources / "flagkernels" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(FLAGKERNELS / name, target)


def call(
    job: Job,
    context: Context,
    place: Place,
    *,
    name: str,
    words: Sequence[str],
    reads: Sequence[Path] = (),
    seconds: float,
) -> None:
    """`python -m flagkernels WORDS` on the chip, to its end; it may write below `place` and reads `reads`.

    Raises its error as one of ours: ConfigError, GateFailed, EnvironmentFault; CommandFailed where it told none."""
    context.ports.runner.reap(job.cell.id, context.workspace.root)
    if job.runner == "process":
        base_image.check_python(base_image.processes(context).machine, job.cell.chip.python)
    image, _ = base_image.base_image(job, context)
    packages = _packages(job, context, place, image)
    seen = _Seen(context.progress)
    try:
        one_shot.finish(
            context,
            one_shot.of(
                job,
                context,
                name=name,
                image=image,
                argv=["python3", "-m", "flagkernels", *words],
                mounts=[
                    *(f"{place.root}:{place.root}:rw", f"{place.sources}:{place.sources}:ro"),
                    *(f"{one}:{one}:ro" for one in (*reads, packages) if one is not None),
                ],
                env=_environment(job, place, packages),
            ),
            seconds=seconds,
            line=seen.line,
        )
    except CommandFailed as error:
        raise seen.error(name, error) from None


def _environment(job: Job, place: Place, packages: Path | None) -> dict[str, str]:
    chip = job.cell.chip.container.env
    paths = [str(place.sources)]
    more = {}
    if packages is not None:
        paths.append(str(place.sources / "flagkernels/engine/startup"))
        more["FLAGKERNELS_PACKAGES"] = str(packages)
    own = chip.get("PYTHONPATH") or (os.environ.get("PYTHONPATH", "") if job.runner == "process" else "")
    return {
        "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [own])]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "FLAGKERNELS_PROGRESS": "json",
        "FLAGKERNELS_BUNDLE": "none",
        **more,
    }


_HAS_FLAGGEMS = "import importlib.util as u; print('flag_gems', u.find_spec('flag_gems') is not None)"


def _packages(job: Job, context: Context, place: Place, image: str) -> Path | None:
    """The packages of the image, unpacked, where the base does not have FlagGems itself."""
    context.progress.doing("looking for FlagGems in the base")
    look = one_shot.of(job, context, name="look", image=image, argv=["python3", "-c", _HAS_FLAGGEMS])
    if "flag_gems True" in one_shot.finish(context, look, seconds=_LOOK_SECONDS, line=lambda _text: None):
        return None
    house = wheelhouse.of(job, context)
    folder = place.packages / house.folder.name
    if not folder.is_dir():
        with translate_disk_errors("unpacking Python packages"):
            shutil.rmtree(place.packages, ignore_errors=True)
            place.packages.mkdir()
            with tempfile.TemporaryDirectory(dir=place.packages) as part:
                for wheel in house.installed:
                    with zipfile.ZipFile(house.folder / wheel.file) as archive:
                        archive.extractall(f"{part}/whole")
                Path(part, "whole").rename(folder)
    return folder


@cache
def in_the_matrix() -> Mapping[str, str]:
    """By option of flagkernels: its name in matrix.yaml, for what flagkernels' own hints name."""
    table = json.loads((FLAGKERNELS / "options.json").read_text(encoding="utf-8"))
    return {name: row["matrix"] for name, row in table.items() if "matrix" in row}


@dataclass
class _Seen:
    """What flagkernels said while it worked."""

    progress: Progress
    at: str = ""
    failures: list[dict[str, Any]] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)

    def line(self, text: str) -> None:
        told = _decoded(text)
        if told is None:
            self.plain.append(text)
        elif "failed" in told:
            self.failures.append(told)
        elif "step" in told:
            self._show(told)

    def _show(self, told: Mapping[str, Any]) -> None:
        step, done, total = str(told["step"]), int(told["done"]), int(told["total"])
        text = " ".join(str(told.get("text") or told.get("doing", "")).split())
        if step == "qualify" and "text" in told and re.match(r"\w+ (?!correct|of )", text):
            self.progress.note(f"{step}: {text}")
        unit = _UNITS.get(step) or _TUNE_UNITS.get(step, "")
        self.at = f"{step}: {text}, {done} of {total} {unit}".rstrip()
        self.progress.doing(f"{step}: {text}", Count(done, total, unit))

    def error(self, name: str, ended: CommandFailed) -> FlagreleaseError:
        """The error that flagkernels told, as one of ours; its first one is the cause."""
        log = "\n".join(self.plain[-one_shot.KEPT_LINES :])
        if not self.failures:
            said = self.plain[-1] if self.plain and _decoded(ended.why) else ended.why
            why = "" if _decoded(said) else said
            where = f"the last that it told was `{self.at}`" if self.at else ""
            hint = "run again: it goes on from there; kernels.limit in matrix.yaml is the time that it has"
            return CommandFailed(
                f"{name}: {ended.what}", why="; ".join(filter(None, (why, where))), hint=hint, detail=log
            )
        told = self.failures[0]
        what, why, hint = f"{told['failed']}: {told['what']}", str(told["why"]), _for_a_release(str(told["hint"]))
        match told["code"]:
            case 2:
                return ConfigError(what, why=why, hint=hint, detail=log)
            case 3 | 4:
                native = "serve it with defaults.stack: native"
                return GateFailed(what, why=why, hint=f"{hint}; or {native}" if hint else native, detail=log)
        return EnvironmentFault(what, why=why, hint=hint, detail=log)


def _for_a_release(hint: str) -> str:
    """A hint of flagkernels in the words of matrix.yaml."""
    mended = re.sub(r"--[a-z-]+", lambda found: in_the_matrix().get(found[0], found[0]), hint)
    return hint if mended == hint else f"{mended} (in matrix.yaml)"


def _decoded(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        told = json.loads(text)
    except ValueError:
        return None
    return told if isinstance(told, dict) else None
