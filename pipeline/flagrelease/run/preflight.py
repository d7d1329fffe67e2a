"""Check before the first stage for problems that would otherwise surface after an hour."""

from __future__ import annotations

import os
from collections.abc import Sequence

from flagrelease.contract.context import Ports
from flagrelease.errors import NoSpace
from flagrelease.evaluation.datasets import promised_digest
from flagrelease.evaluation.harnesses import choose
from flagrelease.run.plan import CellPlan
from flagrelease.run.project import Project, impatient_registry
from flagrelease.stages import STAGES
from flagrelease.stages.speed import load_tools
from flagrelease.store.files import free_bytes

_ON_CHIP = frozenset(stage.name for stage in STAGES if stage.on_chip)
_NEEDS_RUNNER = _ON_CHIP | {"image"}
_NEEDS_REGISTRY = _ON_CHIP - {"kernels"} | {
    "image",
    "publish",
}  # kernels runs in the base image, the others serve the release image
_LEAST_FREE_BYTES = 2_000_000_000


def check_cell(plan: CellPlan, project: Project) -> None:
    """Check the requirements of the cell's evaluation and speed measurement.

    Raises ConfigError for a benchmark without data, and for one that its harness or a load that its generator does not
    support; EnvironmentFault for a harness or load generator that is not set up.
    """
    will_run = {step.stage for step in plan.steps if step.action == "run"}
    if "speed" in will_run:
        load_tools.check(plan.cell, os.environ)
    if "accuracy" not in will_run:
        return
    benchmarks = project.matrix.benchmarks
    choose.check(plan.cell, benchmarks)
    for name in choose.asked_here(plan.cell, benchmarks):
        promised_digest(name, benchmarks[name], project.lock, project.data_dir)


def check_machine(plans: Sequence[CellPlan], project: Project, ports: Ports) -> None:
    """Check the services and disk space that the plans need.

    Raises DockerUnavailable, RegistryUnavailable, RegistryDenied or NoSpace.
    """
    will_run = {step.stage for plan in plans for step in plan.steps if step.action == "run"}
    if will_run & _NEEDS_RUNNER:
        ports.runner.version()
    if will_run & _NEEDS_REGISTRY and project.runner == "docker":
        impatient_registry().check_push(f"{project.registry}/preflight")
    if will_run - {"card", "publish"}:
        free = free_bytes(project.workspace.root)
        if free < _LEAST_FREE_BYTES:
            raise NoSpace(
                f"only {free / 1e9:.1f} GB are free for {project.workspace.root.name}",
                why=f"a release needs at least {_LEAST_FREE_BYTES / 1e9:.0f} GB",
                hint="free some space, or choose --workspace DIR on another disk",
            )
