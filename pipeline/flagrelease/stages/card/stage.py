"""card: write the release record and its charts, then render and lint the model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flagrelease.contract import results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.contract.stage import Stage
from flagrelease.stages.card.files import TEMPLATE, TEMPLATE_ZH


def inputs(job: Job) -> Mapping[str, Any]:
    cell = job.cell
    targets = {name: [each.to, each.template] for name, each in job.matrix.targets.items() if each.kind == "registry"}
    return {
        **({"registries": targets} if targets else {}),  # the card names the image in the first of them
        "cell": cell.id,
        "chip": {name: getattr(cell.chip, name) for name in ("vendor", "device", "components", "reasons", "container")},
        "model": cell.model,
        "stack": cell.stack,
        "baseline": cell.baseline,
        "profile": [cell.profile_name, cell.profile],
        "waivers": cell.waivers,
    }


def run(job: Job, context: Context) -> results.Card:
    """Raises GateFailed with every defect of the card."""
    # `plan` needs the declaration only, and importing the work takes longer than planning.
    from flagrelease.stages.card import run as work

    return work.make(job, context, STAGE.code_version(job.templates))


STAGE = Stage(
    result=results.CARD,
    doing="writing the card",
    inputs=inputs,
    run=run,
    reads=(results.WEIGHTS, results.KERNELS, results.IMAGE, results.SMOKE, results.ACCURACY, results.SPEED),
    templates=(TEMPLATE, TEMPLATE_ZH),
)
