"""Rehearse a cell: its own stages on a stand-in for the chip, in a workspace and a registry of the rehearsal."""

from __future__ import annotations

import json
import shutil
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from flagrelease.config.cell import Cell
from flagrelease.config.lockfile import Lock, LockedChip, LockedModel, LockedWheels
from flagrelease.config.sources import Generated
from flagrelease.contract import results
from flagrelease.contract.context import Ports
from flagrelease.contract.job import Job
from flagrelease.errors import FlagreleaseError
from flagrelease.packaging import wheelhouse
from flagrelease.packaging.requirements import wanted
from flagrelease.ports.container_runner import labels
from flagrelease.ports.registry import scratch
from flagrelease.rehearsal import ahead, base, flags, recorded_outputs, substitute, weights
from flagrelease.rehearsal.report import Report
from flagrelease.rehearsal.served import Stand, stages
from flagrelease.rehearsal.steps import Steps, Stopped
from flagrelease.run.board import Board
from flagrelease.run.project import Project
from flagrelease.store import locks
from flagrelease.store.files import write_atomic
from flagrelease.store.machine import SharedMachine
from flagrelease.store.workspace import Workspace

PARTS = (
    *("lock", "plan", "publish", "packages", "base", "weights", "image"),
    *("container", "smoke", "accuracy", "speed", "card"),
)
"""The parts of a rehearsal, in order."""
_ENGINE_ENV = {
    "vllm": {
        "VLLM_CPU_KVCACHE_SPACE": "1",  # else it takes its share of all memory
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "TORCHDYNAMO_DISABLE": "1",  # sampling is compiled even in eager execution, and the base has no compiler
        "VLLM_WORKER_MULTIPROC_METHOD": "fork",
        "OMP_NUM_THREADS": "1",
    }
}
"""By engine, the environment with which it shares a processor with other programs."""


def rehearse(project: Project, cell: Cell, ports: Ports, board: Board, *, keep: bool = False) -> Report:
    """Rehearse one cell. What fails is in the report, not raised. With `keep`, all files stay, else card and logs.

    Raises Busy if another rehearsal is under way in this workspace."""
    workspace = Workspace(project.workspace.root / "rehearsal")
    stand = Stand(workspace=workspace, ports=ports, steps=Steps(cell.id, board, ports.clock))
    with locks.hold(workspace.locks / "rehearsal.lock", "the workspace of rehearsals", stand.run_id):
        return _rehearsed(project, cell, stand, keep)


def _rehearsed(project: Project, cell: Cell, stand: Stand, keep: bool) -> Report:
    workspace, steps, ports = stand.workspace, stand.steps, stand.ports
    start = ports.clock.monotonic()
    folder = workspace.root / "reports" / cell.chip_name / cell.model_name
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(Stopped):
        lock = ahead.pinned(project, cell, ports, steps)
        without = ahead.lacking(project, cell, lock)
        ahead.planned(project, cell, lock, without, steps)
        ahead.publishable(project, steps)
        ahead.fetched(project, cell, lock, ports, steps)
        with scratch.serving(workspace.root / "registry", port=_port(workspace)) as host:
            _serve(project, cell, lock, without, stand, host, folder)
    report = Report(
        cell=cell.id,
        seconds=round(ports.clock.monotonic() - start, 1),
        exercised=tuple(steps.exercised),
        left_out=tuple(steps.left_out),
        failed=tuple(steps.failed),
        folder=str(folder),
    )
    write_atomic(folder / "report.json", json.dumps(report.as_json(), indent=1, ensure_ascii=False).encode())
    if not keep:
        for done in (workspace.evidence, workspace.weights, workspace.root / "work", workspace.root / "models"):
            shutil.rmtree(done, ignore_errors=True)
    return report


def _serve(
    project: Project, cell: Cell, lock: Lock, without: dict[str, str], stand: Stand, host: str, folder: Path
) -> None:
    named, digest = stand.steps.need("base", "making the rehearsal's base image", lambda: _base(stand, cell, host))
    real = Job(
        cell=cell,
        matrix=project.matrix,
        lock=lock,
        registry=f"{host}/rehearsal",
        templates=project.templates,
        data_dir=project.data_dir,
    )
    source = stand.workspace.root / "models" / cell.model_name
    ours = labels(stand.run_id, cell.id, stand.workspace.root)
    here = substitute.Here(
        python=base.PYTHON,
        base=named,
        source=f"file://{source}" if base.needed(cell.model.serve.engine) else cell.model.source,
        exists=lambda path: Path(path).exists(),
        reported=recorded_outputs.of(cell.chip_name, cell.chip.vendor),
        generated=next((n for n, one in project.matrix.benchmarks.items() if Generated.parse(one.data)), ""),
        env=_ENGINE_ENV.get(cell.model.serve.engine, {}),
        refused=flags.refused(stand.ports.runner, cell.chip.container, f"{named.rpartition(':')[0]}@{digest}", ours),
    )
    played, left_out = substitute.substituted(cell, here, without)
    stand.steps.leave_out(*left_out)
    job = replace(real, cell=played)
    names = {"cells": cell.id, "workspace": str(stand.workspace.root), "executor": stand.ports.runner.address}
    # Known as alive, so that a run removes the containers of a rehearsal that was killed, and no others.
    with SharedMachine.here().running(stand.run_id, names) as alive:
        _through(stand, real, job, (named, digest), source, folder)
        alive.gone = True


def _through(stand: Stand, real: Job, job: Job, base_image: tuple[str, str], source: Path, folder: Path) -> None:
    """Take the cell through its stages, and keep what explains how they ended."""
    named, digest = base_image
    try:
        model = _model(stand, real, job, f"{named.rpartition(':')[0]}@{digest}", source)
        job = replace(job, lock=_lock(stand, job, LockedChip(base=named, digest=digest), model))
        stages(stand, job, real)
    finally:
        stand.pool.close()
        _write(stand, folder)
        _forget(stand, job)


def _base(stand: Stand, cell: Cell, host: str) -> tuple[tuple[str, str], str]:
    """The base image, pushed to the registry of the rehearsal: its name there and its digest."""
    progress, docker = stand.steps.progress("base"), stand.ports.docker
    tag = base.made(cell.model.serve.engine, stand.workspace.wheels, stand.ports, progress)
    name, _, version = tag.rpartition(":")
    repository = f"{host}/rehearsal/{name}"
    progress.doing("pushing it to the registry of the rehearsal")
    docker.tag(tag, repository, version)
    digest = docker.push(repository, version, lambda _done, _total: None).digest
    return (f"{repository}:{version}", digest), f"{tag} with Python {base.PYTHON}, pushed by digest"


def _model(stand: Stand, real: Job, job: Job, image: str, folder: Path) -> LockedModel | None:
    """The lock's entry of the weights that are drawn; None for weights that are fetched as they are."""
    if not base.needed(job.cell.model.serve.engine):
        return None

    def work() -> tuple[LockedModel, str]:
        context = stand.context("weights")
        drawn = weights.drawn(real.lock.models.get(real.cell.model_name), job, context)
        stand.steps.leave_out(*drawn.left_out)
        return weights.write(drawn, job, context, image, folder)

    return stand.steps.need("weights", "drawing random weights", work)


def _lock(stand: Stand, job: Job, chip: LockedChip, model: LockedModel | None) -> Lock:
    """The lock of the rehearsal: its base, its weights, and the packages for its Python."""
    cell, lock = job.cell, job.lock
    inputs, locked = wanted(cell), lock.wheels.get(cell.wheels_entry)

    def work() -> tuple[LockedWheels, str]:
        return wheelhouse.resolve(inputs, stand.ports.command), ""

    if locked is None or locked.inputs != inputs:
        locked = stand.steps.need("image", "pinning Python packages", work)
    models = {**lock.models, **({cell.model_name: model} if model else {})}
    return replace(
        lock,
        models=models,
        chips={**lock.chips, cell.chip_name: chip},
        wheels={**lock.wheels, cell.wheels_entry: locked},
    )


def _write(stand: Stand, folder: Path) -> None:
    """Keep the card, and the evidence that explains a failure."""
    evidence = stand.context("card").evidence
    for done in stand.done.values():
        files = done.result.evidence
        if isinstance(done.result, results.Card):
            files = (done.result.readme, *done.result.images, *files)
        for file in files:
            with suppress(FlagreleaseError):
                write_atomic(folder / file.name, evidence.read(file))


def _forget(stand: Stand, job: Job) -> None:
    """Remove the names of the rehearsal's images from this machine; the base image stays for the next rehearsal."""
    docker = stand.ports.docker
    with suppress(FlagreleaseError):
        for name in docker.tags(job.repository):
            docker.untag(name)
        image = stand.context("image").optional(results.IMAGE)
        if image is not None:
            docker.untag(image.reference)


def _port(workspace: Workspace) -> int:
    """A port of this workspace's own, so that Docker Engine knows what it sent to its registry before."""
    return 20_000 + zlib.crc32(str(workspace.root).encode()) % 10_000
