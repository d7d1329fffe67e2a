"""Check before the first stage for problems that would otherwise surface after an hour."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from flagrelease.config.cell import Cell
from flagrelease.config.harness_names import DEFAULT_HARNESS
from flagrelease.config.vendors import VENDORS
from flagrelease.config.waivers import check_days
from flagrelease.contract.context import Context, Ports
from flagrelease.errors import ConfigError, FlagreleaseError, NoSpace
from flagrelease.evaluation import datasets
from flagrelease.packaging import one_shot
from flagrelease.packaging.base_image import base_here, check_base
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.container_runner import Note
from flagrelease.ports.meter import Meter
from flagrelease.ports.progress import Silent
from flagrelease.recipe.devices import check_devices, check_memory
from flagrelease.run.plan import CellPlan, Step, blocked, unplannable
from flagrelease.run.project import Project, check_registry
from flagrelease.serving import chip_proof
from flagrelease.stages import STAGES
from flagrelease.store.files import free_bytes

_ON_CHIP = frozenset(stage.name for stage in STAGES if stage.on_chip)
_NEEDS_RUNNER = _ON_CHIP | {"image"}
_NEEDS_REGISTRY = _ON_CHIP - {"kernels"} | {
    "image",
    "publish",
}  # kernels runs in the base image, the others serve the release image
_LEAST_FREE_BYTES = 2_000_000_000


def check_cell(plan: CellPlan, project: Project) -> None:
    """Check the requirements of the cell's devices, evaluation and speed measurement, of signing and publishing its
    release, and of its base image.

    Raises ConfigError for devices that the chip does not have or share, for weights larger than their memory, for an
    expired waiver, for a benchmark without data, for one that its harness or a load that its generator does not
    support, for a signing key that cannot be used, and for a target without what it needs; EnvironmentFault for a
    harness or load generator that is not set up, and for a base image that is neither here nor can be pulled.
    """
    cell = plan.cell
    check_devices(cell.chip, cell.chip_name, cell.model.serve.devices)
    if (locked := project.lock.models.get(cell.model_name)) is not None:
        check_memory(cell, locked.files)
    check_days(cell.waivers, SystemClock().now().date().isoformat())
    will_run = {step.stage for step in plan.steps if step.action == "run"}
    if "speed" in will_run:
        _check_speed(cell)
    if "publish" in will_run and os.environ.get("FLAGRELEASE_SIGNING_KEY"):
        from flagrelease.stages.publish import signature  # `plan` comes here, and most runs have no key

        signature.check(os.environ)
    if "publish" in will_run and project.matrix.targets and project.runner == "docker":
        from flagrelease.stages.publish import deliver  # `plan` comes here, and many matrices have no targets

        deliver.configured(project.matrix.targets)
    if "accuracy" in will_run:
        _check_data(cell, project)
    if project.runner == "docker":
        job = project.job(cell)
        if any(stage.name in will_run and "base image" in stage.inputs(job) for stage in STAGES):
            check_base(job, project.images.has)


def _check_data(cell: Cell, project: Project) -> None:
    benchmarks = project.matrix.benchmarks
    asked: Iterable[str] = cell.profile.benchmarks
    if any((benchmarks[name].harness or cell.profile.harness) != DEFAULT_HARNESS for name in asked):
        from flagrelease.evaluation.harnesses import choose

        choose.check(cell, benchmarks)
        asked = choose.asked_here(cell, benchmarks)
    datasets.check(asked, benchmarks, project.lock, project.data_dir)


def _check_speed(cell: Cell) -> None:
    limit = cell.model.serve.max_model_len
    shortest = min((traffic.input + traffic.output for traffic in cell.profile.speed), default=0)
    if shortest > limit:
        raise ConfigError(
            f"no load of profile {cell.profile_name} fits {cell.model_name}",
            why=f"the shortest has {shortest:,} tokens, and max_model_len is {limit:,}",
            hint="choose another --profile, or raise serve.max_model_len in matrix.yaml",
        )
    if cell.profile.load_tool is not None:
        from flagrelease.stages.speed import load_tools  # `plan` comes here, and engines' default tools need no check

        load_tools.check(cell, os.environ)


def checked(plan: CellPlan, project: Project) -> CellPlan:
    """The plan, blocked if `run` would refuse the cell."""
    if plan.blocked:
        return plan
    try:
        check_cell(plan, project)
    except FlagreleaseError as error:
        return blocked(plan.cell, [step.stage for step in plan.steps], error.line(), error.hint)
    return plan


def refusal(cell: Cell, project: Project) -> CellPlan | None:
    """The plan of a cell that has never run, if `run` would refuse it; None if it would run."""
    job = project.job(cell)
    if (lacking := unplannable(job, STAGES)) is not None:
        return lacking
    steps = tuple(Step(stage=s.name, action="run", reason="never run") for s in STAGES if not s.skip(job))
    plan = checked(CellPlan(cell=cell, steps=steps), project)
    return plan if plan.blocked else None


def check_chip(plan: CellPlan, project: Project, ports: Ports, run_id: str, note: Note) -> None:
    """Ask the vendor's tool in the chip's base image whether this machine has the devices that the cell needs, if a
    stage on the chip will run and the image is here: to pull it may take longer than the check saves, and the stages
    ask as well.

    Raises EnvironmentFault, with the reasons.
    """
    if not any(step.action == "run" and step.stage in _ON_CHIP for step in plan.steps):
        return
    job = project.job(plan.cell)
    context = Context(
        run_id=run_id,
        workspace=project.workspace,
        evidence=project.evidence,
        ports=ports,
        progress=Silent(),
        meter=Meter(ports.clock),
    )
    if VENDORS[plan.cell.chip.vendor].on_host or (image := base_here(job, context)) is None:
        return
    chip_proof.prove(job, one_shot.executing(job, context, image, "devices"), note)


def check_machine(plans: Sequence[CellPlan], project: Project, ports: Ports) -> None:
    """Check the services and disk space that the plans need.

    Raises DockerUnavailable, RegistryUnavailable, RegistryDenied or NoSpace, and the error of a target that does not
    let us write. One that does not answer may do so when the release is ready.
    """
    will_run = {step.stage for plan in plans for step in plan.steps if step.action == "run"}
    if will_run & _NEEDS_RUNNER:
        ports.runner.version()
    if will_run & _NEEDS_REGISTRY and project.runner == "docker":
        check_registry(project.registry)
    if "publish" in will_run and project.matrix.targets and project.runner == "docker":
        from flagrelease.stages.publish import deliver

        for place, error in deliver.check(project.matrix.targets).items():
            if not error.retriable:
                what = f"nothing can be published to {place}: {error.what}"
                raise type(error)(what, why=error.why, hint=error.hint)
    if will_run - {"card", "publish"}:
        free = free_bytes(project.workspace.root)
        if free < _LEAST_FREE_BYTES:
            raise NoSpace(
                f"only {free / 1e9:.1f} GB are free for {project.workspace.root.name}",
                why=f"a release needs at least {_LEAST_FREE_BYTES / 1e9:.0f} GB",
                hint="free some space, or choose --workspace DIR on another disk",
            )
