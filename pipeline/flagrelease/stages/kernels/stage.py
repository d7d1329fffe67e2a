"""kernels: qualify, tune and select the chip's Triton operators for the model, and bundle them.

flagkernels does the work in the chip's base image, on the chip's host. Its files stay in the workspace, so that an
interrupted run can be resumed.
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
from flagrelease.packaging.operator_bundle import PROGRAMS
from flagrelease.stages.kernels import options
from flagrelease.store.digests import Hashed


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
    if locked and not cell.model.serve.convert and options.CONFIG not in {file.path for file in locked.files}:
        raise options.no_transformers_model(job)
    return {
        "kernels": cell.kernels,
        "vendor": cell.chip.vendor,
        "device": cell.chip.device,
        "components": cell.chip.components,
        **pinned_base(job),
        "container": cell.chip.container,
        "wheels": job.lock.wheels.get(cell.wheels_entry),
        "limits": options.limits(job),
        "execution": options.execution(job),
        "requests": options.requests(job),
        "share": options.share(job),
        "runner": job.runner,
    }


def run(job: Job, context: Context) -> results.Kernels:
    """Raises ConfigError if the weights are not a transformers model or an excluded operator does not exist, GateFailed
    if no operator is left, EnvironmentFault if chip or base image lack a requirement."""
    # `plan` needs the declaration only, and importing the work takes longer than planning.
    from flagrelease.stages.kernels import run as work

    return work.prepare(job, context)


def intact(result: results.Kernels, look: Look) -> str:
    """Check that the bundle is unchanged: images are built from its folder, and refuse to serve a changed bundle."""
    from flagrelease.stages.kernels.packed import PACKED, pack

    folder, packed = look.workspace.root / result.folder, Hashed()
    if not (folder / "compat.json").is_file():
        return "the bundle is missing"
    try:
        pack(folder, packed)
    except OSError as error:
        return f"the bundle cannot be read: {error}"
    expected = next(entry.sha256 for entry in result.evidence if entry.name == PACKED)
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
