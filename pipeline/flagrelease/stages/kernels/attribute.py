"""attribute: after a gate that failed, which of the cell's operators did it. Not one of the usual stages.

A fixed text, its log-probabilities with the native kernels, with all operators of the bundle, and with each alone:
`python -m flagkernels attribute` on the chip, with the very bundle that is in the image.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from flagrelease.config.chip import duration
from flagrelease.contract import flagkernels_files, results
from flagrelease.contract.context import Context
from flagrelease.contract.flagkernels_files import AttributionReport, Round
from flagrelease.contract.job import Job
from flagrelease.contract.stage import Stage
from flagrelease.errors import FlagreleaseError, GateFailed
from flagrelease.packaging.operator_bundle import PROGRAMS
from flagrelease.stages.kernels import flagkernels_cli
from flagrelease.stages.kernels.attribution_text import TEXT
from flagrelease.store.evidence import Evidence
from flagrelease.store.files import write_atomic

_TOKENS = 1024
_DIGEST_LETTERS = 12


def inputs(job: Job) -> Mapping[str, Any]:
    return {"device": job.cell.kernels.device, "tokens": _TOKENS, "runner": job.runner}


def run(job: Job, context: Context) -> results.Attribution:
    """Raises EnvironmentFault where chip or base image lack something, CommandFailed where it runs out of time."""
    weights = context.result(results.WEIGHTS)
    prepared = context.result(results.KERNELS)
    place = flagkernels_cli.Place(context.workspace.scratch(job.cell.slug, "kernels").resolve())
    place.fill()
    model = (context.workspace.weights / weights.folder).resolve()
    bundle = (context.workspace.root / prepared.folder).resolve()
    folder = place.root / "attribute" / prepared.content[:_DIGEST_LETTERS]
    folder.mkdir(parents=True, exist_ok=True)
    text, report = folder / "text.txt", folder / "attribute.json"
    write_atomic(text, TEXT.encode())
    report.unlink(missing_ok=True)
    plan = job.cell.kernels
    words = [
        *("attribute", "--bundle", str(bundle), "--weights", str(model), "--text", str(text), "--out", str(report)),
        *("--device", plan.device, "--tokens", str(_TOKENS), "--seconds", str(duration(plan.operator_limit))),
    ]
    limit = duration(plan.limit)
    try:
        flagkernels_cli.call(job, context, place, name="attribute", words=words, reads=[bundle, model], seconds=limit)
    except GateFailed:
        if not report.exists():  # it ends so where what remains is not clean, and has written its report before
            raise
    found = flagkernels_files.read_attribution(report)
    measured = report.with_suffix(".jsonl")
    kept = tuple(context.evidence.put(f"attribute/{one.name}", one.read_bytes()) for one in (report, measured))
    shutil.rmtree(folder, ignore_errors=True)
    return _result(job, context, found, kept)


def _result(job: Job, context: Context, found: AttributionReport, kept: tuple[Evidence, ...]) -> results.Attribution:
    together = found.together
    if together is None:
        raise FlagreleaseError("the bundle has no operators", hint="there is nothing that could be taken out")
    return results.Attribution(
        round=len(job.attributed) + 1,
        gate="accuracy" if results.ACCURACY in context.finished else "smoke",
        operators=len(together.operators),
        together=together.finding,
        culprits=tuple(_culprit(one, one.culprit) for one in found.rounds if one.culprit),
        clean=found.clean,
        evidence=kept,
    )


def _culprit(found: Round, operator: str) -> results.Culprit:
    """The one that a round named, with its own figures, or those of the pair where it is only guilty beside another."""
    operators = sorted(filter(None, (operator, found.partner)))
    measured = next(one for one in found.measurements if sorted(one.operators) == operators)
    return results.Culprit(operator=operator, partner=found.partner or "", finding=measured.finding)


STAGE = Stage(
    result=results.ATTRIBUTION,
    doing="finding the operators that did it",
    inputs=inputs,
    run=run,
    reads=(results.WEIGHTS, results.KERNELS, results.IMAGE),
    programs=PROGRAMS,
    on_chip=True,
)
