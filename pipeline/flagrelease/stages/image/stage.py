"""image: assemble the layers, send what the registry lacks, read the digest back from it.

Without Docker the same files are laid out in a workspace folder, and nothing is pushed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flagrelease.config.engines import ENGINES
from flagrelease.contract import results
from flagrelease.contract.context import Context, Look
from flagrelease.contract.job import Job
from flagrelease.contract.stage import Stage
from flagrelease.packaging.base_image import pinned_base
from flagrelease.packaging.requirements import locked_wheels

_LAUNCHERS = tuple(f"packaging/payload/{engine.launcher}" for engine in ENGINES.values() if engine.launcher)


def inputs(job: Job) -> Mapping[str, Any]:
    """Raises ConfigError if matrix.lock lacks the packages, before weights are fetched and kernels are prepared."""
    cell = job.cell
    return {
        "repository": job.repository,
        "chip": cell.chip_name,
        **pinned_base(job),
        "python": cell.chip.python,
        "components": cell.chip.components,
        **({"from the base": cell.chip.brought} if cell.chip.brought else {}),
        "device": cell.chip.device,
        "vendor": cell.chip.vendor,
        "wheels": locked_wheels(job),
        "weights": job.lock.models.get(cell.model_name),
        "title": cell.model.title,
        "license": cell.model.license,
        "upstream": cell.model.upstream,
        "serve": cell.model.serve,
        "stack": cell.stack,
        "runner": job.runner,
    }


def run(job: Job, context: Context) -> results.Image:
    """Raises RegistryDenied before any work if pushing is not allowed, and the errors of its steps; without Docker,
    EnvironmentFault if this machine has a different Python version than the chip."""
    # `plan` needs the declaration only, and importing the work takes longer than planning.
    from flagrelease.stages.image import run as work

    return work.build(job, context)


def intact(result: results.Image, look: Look) -> str:
    """Check that the registry, if there is one, still has the image, or that its folder is complete."""
    if result.runner == "process":
        from flagrelease.stages.image import process_root

        return "" if process_root.complete(look.workspace.image(result.digest)) else "its folder is missing"
    if look.registry is None:
        return ""
    return "" if look.registry.digest(result.repository, result.digest) else "the registry no longer has it"


STAGE = Stage(
    result=results.IMAGE,
    doing="building the image",
    inputs=inputs,
    run=run,
    intact=intact,
    reads=(results.KERNELS,),
    programs=(
        "packaging/payload/flagos_serve.py",
        "recipe/device_check.py",
        *_LAUNCHERS,
        "packaging/payload/gguf_to_safetensors.py",
    ),
    templates=("Dockerfile.j2", "serve.yaml.j2"),
)
