"""Run `flagkernels prepare` on the chip and store its bundle."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from flagrelease.config.chip import duration
from flagrelease.contract import flagkernels_files, results
from flagrelease.contract.context import Context
from flagrelease.contract.flagkernels_files import OperatorFigures
from flagrelease.contract.job import Job
from flagrelease.stages.kernels import flagkernels_cli
from flagrelease.stages.kernels.options import CONFIG, argv, no_transformers_model
from flagrelease.stages.kernels.packed import PACKED, pack
from flagrelease.store.evidence import Evidence
from flagrelease.store.files import translate_disk_errors, unfinished

_DIGEST_LETTERS = 12
_EVIDENCE = ("operators.yaml", "report.json", "compat.json")


def prepare(job: Job, context: Context) -> results.Kernels:
    """Raises ConfigError if the weights are not a transformers model or an excluded operator does not exist, GateFailed
    if no operator is left, EnvironmentFault if chip or base image lack a requirement."""
    weights = context.result(results.WEIGHTS)
    config = (context.workspace.weights / weights.folder / CONFIG).resolve()
    if not config.is_file():
        raise no_transformers_model(job)
    folders = flagkernels_cli.KernelFolders(context.workspace.scratch(job.cell.slug, "kernels").resolve())
    folders.fill()
    limit = duration(job.cell.kernels.limit)
    flagkernels_cli.call(
        job, context, folders, name="kernels", argv=argv(job, folders, config), reads=[config], seconds=limit
    )
    return _result(job, context, folders)


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
        pack(folder, packed)
        packed.flush()
        return context.evidence.put_file(PACKED, Path(packed.name))
