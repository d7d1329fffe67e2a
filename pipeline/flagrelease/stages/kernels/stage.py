"""kernels: qualify, tune and select the chip's Triton operators for the model, and bundle them.

flagkernels does the work in the chip's base image, on the chip's host. Its files stay in the workspace, so that an
interrupted run can be resumed.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flagrelease.config.chip import duration
from flagrelease.config.engines import ENGINES
from flagrelease.config.matrix import Serve
from flagrelease.contract import flagkernels_files, results
from flagrelease.contract.context import Context, Look
from flagrelease.contract.flagkernels_files import OperatorFigures
from flagrelease.contract.job import Job
from flagrelease.contract.stage import Stage
from flagrelease.errors import ConfigError
from flagrelease.packaging import base_image, wheelhouse
from flagrelease.packaging.operator_bundle import PROGRAMS
from flagrelease.stages.kernels import flagkernels_cli
from flagrelease.store.digests import Hashed
from flagrelease.store.evidence import Evidence
from flagrelease.store.files import translate_disk_errors, unfinished

_DIGEST_LETTERS = 12
_EVIDENCE = ("operators.yaml", "report.json", "compat.json")
_PACKED = "bundle.tar"
_CONFIG = "config.json"


def skip(job: Job) -> str:
    cell = job.cell
    if cell.chip.components.flaggems == "none":
        return "no Triton backend"
    if cell.stack == "native":
        return "the native stack has the vendor's own kernels"
    engine = ENGINES[cell.model.serve.engine]
    if engine.own_kernels:
        return f"{engine.title} has its own kernels"
    return ""


def inputs(job: Job) -> Mapping[str, Any]:
    """Raises ConfigError if the locked weights are not a transformers model, before they are fetched."""
    cell = job.cell
    locked = job.lock.models.get(cell.model_name)
    if locked and not cell.model.serve.convert and _CONFIG not in {file.path for file in locked.files}:
        raise _no_transformers_model(job)
    return {
        "kernels": cell.kernels,
        "vendor": cell.chip.vendor,
        "device": cell.chip.device,
        "components": cell.chip.components,
        **base_image.pinned_base(job),
        "container": cell.chip.container,
        "wheels": job.lock.wheels.get(cell.wheels_entry),
        "limits": _limits(job),
        "execution": _execution(job),
        "requests": _requests(job),
        "runner": job.runner,
    }


def run(job: Job, context: Context) -> results.Kernels:
    """Raises ConfigError if the weights are not a transformers model or an excluded operator does not exist, GateFailed
    if no operator is left, EnvironmentFault if chip or base image lack a requirement."""
    weights = context.result(results.WEIGHTS)
    config = (context.workspace.weights / weights.folder / _CONFIG).resolve()
    if not config.is_file():
        raise _no_transformers_model(job)
    folders = flagkernels_cli.KernelFolders(context.workspace.scratch(job.cell.slug, "kernels").resolve())
    folders.fill()
    limit = duration(job.cell.kernels.limit)
    flagkernels_cli.call(
        job, context, folders, name="kernels", argv=_argv(job, folders, config), reads=[config], seconds=limit
    )
    return _result(job, context, folders)


def _no_transformers_model(job: Job) -> ConfigError:
    return ConfigError(
        f"the weights of {job.cell.model_name} have no {_CONFIG}",
        why="it is needed to trace the operators",
        hint="use the model in transformers format, unpack a GGUF with serve.convert: safetensors, "
        "or serve it with defaults.stack: native",
    )


def _limits(job: Job) -> dict[str, int]:
    """The largest lengths, batches and token counts of an engine step, from the engine's arguments."""
    serve: Serve = job.cell.model.serve
    engine = ENGINES[serve.engine]
    longest = min(serve.max_model_len, job.cell.kernels.max_len or serve.max_model_len)
    tokens = serve.args.get(engine.tokens_argument, engine.step_tokens)
    return {
        "max_len": longest,
        "max_batch": serve.args.get(engine.batch_argument, serve.concurrency),
        "max_tokens": min(tokens, longest) if job.cell.kernels.max_len else tokens,
    }


def _execution(job: Job) -> str:
    """How the engine runs the layers: from the matrix, else from the engine's arguments."""
    serve: Serve = job.cell.model.serve
    engine = ENGINES[serve.engine]
    eager = serve.args.get(engine.eager_argument, False)
    return job.cell.kernels.execution or ("eager" if eager else engine.execution)


def _requests(job: Job) -> str:
    """The sampling of the evaluation's requests, so that no operator is shipped which they would not call."""
    return "mixed" if job.cell.model.sampling.temperature else "greedy"


def _argv(job: Job, folders: flagkernels_cli.KernelFolders, config: Path) -> list[str]:
    plan, limits = job.cell.kernels, _limits(job)
    context = max(1, min(512, limits["max_len"] - 16))
    loads = [f"decode:{batch}x{context}" for batch in (1, 8, 32) if batch <= max(1, limits["max_batch"])]
    return [
        *("prepare", "--config", str(config), "--work", str(folders.work)),
        *("--out", str(folders.bundle), "--vendor", job.cell.chip.vendor, "--device", plan.device),
        *("--execution", _execution(job), "--requests", _requests(job)),
        *("--policy", plan.policy, "--budget", plan.budget, "--floor", str(plan.min_speed_ratio)),
        *("--seconds", str(duration(plan.operator_limit)), "--classes", str(plan.classes)),
        *(text for name, value in limits.items() for text in (f"--{name.replace('_', '-')}", str(value))),
        *("--loads", ",".join(loads)),
        *(text for name, reason in plan.exclude.items() for text in ("--exclude", f"{name}={reason}")),
    ]


def _result(job: Job, context: Context, folders: flagkernels_cli.KernelFolders) -> results.Kernels:
    report = flagkernels_files.read_report(folders.bundle / "report.json")
    content = flagkernels_files.read_label(folders.bundle / "compat.json").content
    folder = context.workspace.kernels / job.cell.slug / content[:_DIGEST_LETTERS]
    with translate_disk_errors("copying the bundle"):
        _keep(folders.bundle, folder)
    measured = report.limits.operators
    return results.Kernels(
        folder=str(folder.relative_to(context.workspace.root)),
        content=content,
        policy=report.policy,
        execution=report.execution,
        requests=report.requests,
        operators=tuple(_operator(name, measured.get(name, OperatorFigures())) for name in report.operators),
        excluded=report.excluded,
        verdicts=report.verdicts,
        tuning=report.tuning,
        served=report.served,
        versions=report.versions,
        evidence=(
            context.evidence.put("verdicts.jsonl", (folders.work / "verdicts.jsonl").read_bytes()),
            *(context.evidence.put(name, (folder / name).read_bytes()) for name in _EVIDENCE),
            _packed(context, folder),
        ),
    )


def _operator(name: str, figures: OperatorFigures) -> results.Operator:
    share, native = figures.share, figures.native_share
    return results.Operator(
        name=name,
        classes=figures.classes,
        faster=figures.faster,
        share=share[1] if share else None,
        native_share=native[1] if native else None,
    )


def _keep(bundle: Path, folder: Path) -> None:
    """Copy the bundle, so that later runs of the steps do not change it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=unfinished()) as part:
        shutil.copytree(bundle, f"{part}/bundle")
        shutil.rmtree(folder, ignore_errors=True)
        Path(part, "bundle").rename(folder)


def _packed(context: Context, folder: Path) -> Evidence:
    with (
        translate_disk_errors("packing the bundle"),
        tempfile.NamedTemporaryFile(dir=folder.parent, suffix=".tar") as packed,
    ):
        _pack(folder, packed)
        packed.flush()
        return context.evidence.put_file(_PACKED, Path(packed.name))


def _pack(folder: Path, target: Any) -> None:
    """Write the bundle as a tar; equal bundles give equal bytes."""
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size, entry.mode, entry.mtime = path.stat().st_size, 0o644, int(wheelhouse.EPOCH)
            with path.open("rb") as stream:
                tar.addfile(entry, stream)


def intact(result: results.Kernels, look: Look) -> str:
    """Check that the bundle is unchanged: images are built from its folder, and refuse to serve a changed bundle."""
    folder, packed = look.workspace.root / result.folder, Hashed()
    if not (folder / "compat.json").is_file():
        return "the bundle is missing"
    try:
        _pack(folder, packed)
    except OSError as error:
        return f"the bundle cannot be read: {error}"
    expected = next(entry.sha256 for entry in result.evidence if entry.name == _PACKED)
    return "" if packed.sha256 == expected else "the bundle was changed after it was made"


STAGE = Stage(
    result=results.KERNELS,
    doing="preparing the operators",
    inputs=inputs,
    run=run,
    reads=(results.WEIGHTS,),
    programs=PROGRAMS,
    on_chip=True,
    skip=skip,
    intact=intact,
)
