"""kernels: the chip's Triton operators, qualified, tuned and chosen for this model, as one bundle.

flagkernels does the work in the chip's base image, on the chip's host. Its files stay in the workspace, so that a run
that was killed goes on with what is missing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from flagrelease import base, results, task, wheels
from flagrelease.errors import CommandFailed, ConfigError, EnvironmentFault, FlagreleaseError, GateFailed
from flagrelease.evidence import Evidence
from flagrelease.matrix import Serve, duration
from flagrelease.ports.progress import Count, Progress
from flagrelease.shipped import FLAGKERNELS, PROGRAMS, SOURCES
from flagrelease.stage import Context, Job, Look, Stage
from flagrelease.workspace import telling_space, unfinished

_DIGEST_LETTERS = 12
_LOOK_SECONDS = 120.0
_MOST_TOKENS = 8192
"""What an engine computes in one step where its arguments say nothing (vLLM's own default on such chips)."""
_UNITS = {"trace": "points", "qualify": "operators", "bench": "operators", "prepare": "steps"}
_TUNE_UNITS = {"tune: compile": "candidates", "tune: time": "keys", "tune: verify": "calls"}
_EVIDENCE = ("operators.yaml", "report.json", "compat.json")


def skip(job: Job) -> str:
    cell = job.cell
    if cell.chip.components.flaggems == "none":
        return "no Triton backend"
    if cell.stack == "native":
        return "the native stack has the vendor's own kernels"
    if cell.model.serve.engine == "llama_cpp":
        return "llama.cpp has kernels of its own"
    return ""


def inputs(job: Job) -> Mapping[str, Any]:
    cell = job.cell
    return {
        "kernels": cell.kernels,
        "vendor": cell.chip.vendor,
        "device": cell.chip.device,
        "components": cell.chip.components,
        "base": base.locked_base(job),
        "container": cell.chip.container,
        "wheels": job.lock.wheels.get(wheels.name(cell)),
        "limits": _limits(job),
        "runner": job.runner,
    }


def run(job: Job, context: Context) -> results.Kernels:
    """Raises ConfigError where the weights are no model of transformers or an excluded operator does not exist,
    GateFailed where no operator is left, EnvironmentFault where chip or base image lack something."""
    weights: results.Weights = context.upstream["weights"]
    config = (context.workspace.weights / weights.folder / "config.json").resolve()
    if not config.is_file():
        raise ConfigError(
            f"the weights of {job.cell.model_name} have no config.json",
            why="operators are traced from it",
            hint="take the model in transformers' format, or serve it with defaults.stack: native",
        )
    place = _Place(context.workspace.scratch(job.cell.slug, "kernels").resolve())
    place.fill()
    context.ports.runner.reap(job.cell.id, context.workspace.root)
    image, _ = base.base_image(job, context)
    packages = _packages(job, context, place, image)
    seen = _Seen(context.progress)
    try:
        task.finish(
            context,
            task.of(
                job,
                context,
                name="kernels",
                image=image,
                argv=["python3", *_words(job, place, config)],
                mounts=[
                    *(f"{place.root}:{place.root}:rw", f"{place.sources}:{place.sources}:ro"),
                    *(f"{one}:{one}:ro" for one in (config, packages) if one is not None),
                ],
                env=_environment(job, place, packages),
            ),
            seconds=duration(job.cell.kernels.limit),
            line=seen.line,
        )
    except CommandFailed as error:
        raise seen.error(job, error) from None
    return _result(job, context, place)


@dataclass(frozen=True)
class _Place:
    """The stage's folder: the same path on the host and in the container."""

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
        with telling_space("preparing the kernels"):
            shutil.rmtree(self.sources, ignore_errors=True)
            for name in SOURCES:
                target = self.sources / "flagkernels" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(FLAGKERNELS / name, target)


def _limits(job: Job) -> dict[str, int]:
    """What one step of the engine can be given, by its own arguments."""
    serve: Serve = job.cell.model.serve
    longest = min(serve.max_model_len, job.cell.kernels.max_len or serve.max_model_len)
    tokens = int(serve.args.get("max_num_batched_tokens", _MOST_TOKENS))
    return {
        "max_len": longest,
        "max_batch": int(serve.args.get("max_num_seqs", serve.concurrency)),
        "max_tokens": min(tokens, longest) if job.cell.kernels.max_len else tokens,
    }


def _words(job: Job, place: _Place, config: Path) -> list[str]:
    plan, limits = job.cell.kernels, _limits(job)
    context = max(1, min(512, limits["max_len"] - 16))
    loads = [f"decode:{batch}x{context}" for batch in (1, 8, 32) if batch <= max(1, limits["max_batch"])]
    return [
        *("-m", "flagkernels", "prepare", "--config", str(config), "--work", str(place.work)),
        *("--out", str(place.bundle), "--vendor", job.cell.chip.vendor, "--device", plan.device),
        *("--policy", plan.policy, "--budget", plan.budget, "--floor", str(plan.floor)),
        *("--seconds", str(duration(plan.operator_limit)), "--classes", str(plan.classes)),
        *(word for name, value in limits.items() for word in (f"--{name.replace('_', '-')}", str(value))),
        *("--loads", ",".join(loads)),
        *(word for name, reason in plan.exclude.items() for word in ("--exclude", f"{name}={reason}")),
    ]


def _environment(job: Job, place: _Place, packages: Path | None) -> dict[str, str]:
    chip = job.cell.chip.container.env
    paths = [str(place.sources)]
    more = {}
    if packages is not None:
        paths.append(str(place.sources / "flagkernels/startup"))
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


def _packages(job: Job, context: Context, place: _Place, image: str) -> Path | None:
    """The packages of the image, unpacked, where the base does not have FlagGems itself."""
    context.progress.doing("looking for FlagGems in the base")
    look = task.of(job, context, name="look", image=image, argv=["python3", "-c", _HAS_FLAGGEMS])
    if "flag_gems True" in task.finish(context, look, seconds=_LOOK_SECONDS, line=lambda _text: None):
        return None
    job.lock.require("wheels", wheels.name(job.cell))
    locked = job.lock.wheels[wheels.name(job.cell)]
    with context.meter.waiting():
        house = wheels.gather(locked, context.workspace.wheels, context.ports.command)
    folder = place.packages / wheels.digest(locked)[:32]
    if not folder.is_dir():
        with telling_space("unpacking Python packages"):
            shutil.rmtree(place.packages, ignore_errors=True)
            place.packages.mkdir()
            with tempfile.TemporaryDirectory(dir=place.packages) as part:
                for wheel in house.installed:
                    with zipfile.ZipFile(house.folder / wheel.file) as archive:
                        archive.extractall(f"{part}/whole")  # noqa: S202 -- hash-locked, and zipfile strips `..`
                Path(part, "whole").rename(folder)
    return folder


@dataclass
class _Seen:
    """What flagkernels said while it worked."""

    progress: Progress
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
        self.progress.doing(f"{step}: {text}", Count(done, total, unit))

    def error(self, job: Job, ended: CommandFailed) -> FlagreleaseError:
        """The error that flagkernels told, as one of ours; its first one is the cause."""
        where, log = f"the kernels of {job.cell.id}", "\n".join(self.plain[-task.KEPT_LINES :])
        if not self.failures:
            hint = "run again: it goes on from there; kernels.limit in matrix.yaml is the time that it has"
            return CommandFailed(f"{where}: {ended.what}", why=ended.why, hint=hint, detail=log or ended.detail)
        told = self.failures[0]
        what, why, hint = f"{where}, {told['failed']}: {told['what']}", str(told["why"]), str(told["hint"])
        match told["code"]:
            case 2:
                return ConfigError(what, why=why, hint=hint, detail=log)
            case 3 | 4:
                hint = f"{hint}; or serve it with defaults.stack: native"
                return GateFailed(what, why=why, hint=hint, detail=log)
        return EnvironmentFault(what, why=why, hint=hint, detail=log)


def _decoded(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        told = json.loads(text)
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def _result(job: Job, context: Context, place: _Place) -> results.Kernels:
    report = json.loads((place.bundle / "report.json").read_text())
    content = str(json.loads((place.bundle / "compat.json").read_text())["content"])
    folder = context.workspace.kernels / job.cell.slug / content[:_DIGEST_LETTERS]
    with telling_space("keeping the bundle"):
        _keep(place.bundle, folder)
    measured = report["limits"]["operators"]
    return results.Kernels(
        folder=str(folder.relative_to(context.workspace.root)),
        content=content,
        policy=report["policy"],
        operators=tuple(_operator(name, measured.get(name, {})) for name in report["operators"]),
        excluded=msgspec.convert(report["excluded"], tuple[results.ExcludedOperator, ...]),
        verdicts=report["verdicts"],
        tuning=msgspec.convert(report["tuning"], results.Tuning),
        served=msgspec.convert(report["served"], dict[str, tuple[float, float, float]]),
        versions=report["versions"],
        evidence=(
            context.evidence.put("verdicts.jsonl", (place.work / "verdicts.jsonl").read_bytes()),
            *(context.evidence.put(name, (folder / name).read_bytes()) for name in _EVIDENCE),
            _packed(context, folder),
        ),
    )


def _operator(name: str, figures: Mapping[str, Any]) -> results.Operator:
    share, native = figures.get("share"), figures.get("native_share")
    return results.Operator(
        name=name,
        classes=figures.get("classes", 0),
        faster=figures.get("faster", 0),
        share=share[1] if share else None,
        native_share=native[1] if native else None,
    )


def _keep(bundle: Path, folder: Path) -> None:
    """A copy that later runs of the steps do not change."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=unfinished()) as part:
        shutil.copytree(bundle, f"{part}/bundle")
        shutil.rmtree(folder, ignore_errors=True)
        Path(part, "bundle").rename(folder)


def _packed(context: Context, folder: Path) -> Evidence:
    """The bundle as a tar: equal bundles are equal bytes."""
    with telling_space("packing the bundle"), tempfile.NamedTemporaryFile(dir=folder.parent, suffix=".tar") as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
                entry.size, entry.mode, entry.mtime = path.stat().st_size, 0o644, int(wheels.EPOCH)
                with path.open("rb") as stream:
                    tar.addfile(entry, stream)
        packed.flush()
        return context.evidence.put_file("bundle.tar", Path(packed.name))


def intact(result: results.Kernels, look: Look) -> str:
    return "" if (look.workspace.root / result.folder / "compat.json").is_file() else "the bundle is gone"


STAGE = Stage(
    name="kernels",
    doing="preparing the operators",
    result=results.Kernels,
    inputs=inputs,
    run=run,
    reads=("weights",),
    programs=PROGRAMS,
    on_chip=True,
    skip=skip,
    intact=intact,
)
