"""Run `flagkernels attribute` on the chip, and name the operators at fault."""

from __future__ import annotations

import shutil

from flagrelease.config.chip import duration
from flagrelease.contract import flagkernels_files, results
from flagrelease.contract.context import Context
from flagrelease.contract.flagkernels_files import AttributionReport, Round
from flagrelease.contract.job import Job
from flagrelease.errors import EnvironmentFault, FlagreleaseError, GateFailed
from flagrelease.stages.kernels import flagkernels_cli
from flagrelease.stages.kernels.attribution_text import TEXT
from flagrelease.store.evidence import Evidence
from flagrelease.store.files import write_atomic

_DIGEST_LETTERS = 12


def attribute(job: Job, context: Context, tokens: int) -> results.Attribution:
    """Raises EnvironmentFault if chip or base image lack a requirement or the model needs several devices,
    CommandFailed on timeout."""
    if (devices := job.cell.model.serve.devices) > 1:
        raise EnvironmentFault(
            f"operators at fault are looked for on one device, and the model needs {devices}",
            hint="leave operators out by hand with kernels.exclude in matrix.yaml, and run again",
        )
    weights = context.result(results.WEIGHTS)
    prepared = context.result(results.KERNELS)
    folders = flagkernels_cli.KernelFolders(context.workspace.scratch(job.cell.slug, "kernels").resolve())
    folders.fill()
    model = (context.workspace.weights / weights.folder).resolve()
    bundle = (context.workspace.root / prepared.folder).resolve()
    folder = folders.root / "attribute" / prepared.content[:_DIGEST_LETTERS]
    folder.mkdir(parents=True, exist_ok=True)
    text, report = folder / "text.txt", folder / "attribute.json"
    write_atomic(text, TEXT.encode())
    report.unlink(missing_ok=True)
    plan = job.cell.kernels
    argv = [
        *("attribute", "--bundle", str(bundle), "--weights", str(model), "--text", str(text), "--out", str(report)),
        *("--device", plan.device, "--tokens", str(tokens), "--seconds", str(duration(plan.operator_limit))),
    ]
    limit = duration(plan.limit)
    try:
        flagkernels_cli.call(job, context, folders, name="attribute", argv=argv, reads=[bundle, model], seconds=limit)
    except GateFailed:
        if not report.exists():  # it also fails if the remaining operators are not clean, after writing its report
            raise
    attribution = flagkernels_files.read_attribution(report)
    measured = report.with_suffix(".jsonl")
    evidence = tuple(context.evidence.put(f"attribute/{path.name}", path.read_bytes()) for path in (report, measured))
    shutil.rmtree(folder, ignore_errors=True)
    return _result(job, context, attribution, evidence)


def _result(
    job: Job, context: Context, report: AttributionReport, evidence: tuple[Evidence, ...]
) -> results.Attribution:
    together = report.together
    if together is None:
        raise FlagreleaseError("the bundle has no operators", hint="there is no operator to remove")
    return results.Attribution(
        round=len(job.attributed) + 1,
        gate="accuracy" if results.ACCURACY in context.finished else "smoke",
        operators=len(together.operators),
        together=together.finding,
        culprits=tuple(_culprit(entry, entry.culprit) for entry in report.rounds if entry.culprit),
        clean=report.clean,
        evidence=evidence,
    )


def _culprit(entry: Round, operator: str) -> results.Culprit:
    """The operator that a round identified, with its measurement or that of the pair if it only fails in a pair."""
    operators = sorted(filter(None, (operator, entry.partner)))
    measured = next(item for item in entry.measurements if sorted(item.operators) == operators)
    return results.Culprit(operator=operator, partner=entry.partner or "", finding=measured.finding)
