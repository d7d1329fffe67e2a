"""publish: make a release that passed the gates visible, each part after everything that it refers to.

The order is: verify the image digest, then write evidence and card, attach them to the image, then the release tag,
`latest`, the targets of the matrix, and the index. Every step is idempotent by content, so that an interrupted run is
resumed by running again. A release that did not pass goes to the targets' private places only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flagrelease.contract import results
from flagrelease.contract.context import Context, Look
from flagrelease.contract.job import Job
from flagrelease.contract.stage import Stage
from flagrelease.stages.card.files import README
from flagrelease.stages.publish.release_folder import LATEST, SUMS


def inputs(job: Job) -> Mapping[str, Any]:
    known = {"cell": job.cell.id, "registry": job.registry}
    targets = {name: asdict(target) for name, target in job.matrix.targets.items()}
    return {**known, "targets": targets} if targets else known


def run(job: Job, context: Context) -> results.Publish:
    """Raises GateFailed or Inconclusive unless the gates pass, UpstreamRefused for a tag that is taken or an image that
    the registry has lost, EnvironmentFault for a release folder that was edited."""
    # `plan` needs the declaration only, and importing the work takes longer than planning.
    from flagrelease.stages.publish import run as work

    return work.publish(job, context)


def intact(result: results.Publish, look: Look) -> str:
    """Check the release folder, copies of it and, with a registry, the tags."""
    folder = look.workspace.root / result.folder
    if result.withheld:
        return "" if (folder / README).is_file() else "its draft is missing"
    if not (folder / SUMS).is_file():
        return "its release folder is missing"
    for one in result.targets:
        if one.place.startswith("/") and not Path(one.place, SUMS).is_file():
            return f"its copy at {one.target} is missing"
    if look.registry is not None:
        for reference in result.tags:
            repository, _, tag = reference.rpartition(":")
            digest = look.registry.digest(repository, tag)
            if digest is None or (digest != result.digest and tag != LATEST):
                return f"the tag {tag} is missing" if digest is None else f"the tag {tag} was moved"
    return ""


STAGE = Stage(
    result=results.PUBLISH,
    doing="publishing",
    inputs=inputs,
    run=run,
    reads=(results.IMAGE, results.ACCURACY, results.CARD),
    intact=intact,
)
