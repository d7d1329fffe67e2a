"""Gets both sides' answers to every benchmark of a cell: as a sequential design asks for them, or all of them.

Where a chip holds both stacks at once (a CPU), both stay up and grow side by side, so neither is asked more than the
verdict takes. An accelerator's memory holds one server as users start it, and restarting it at every look would cost
more than it saves: there the baseline is answered in whole, which every further cell and release of the model uses
again, and then the candidate is asked look by look against it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flagrelease.config.cell import fingerprint
from flagrelease.config.matrix import Stack
from flagrelease.contract import accuracy_results, results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.errors import Corrupt, SmokeFailed
from flagrelease.evaluation import baselines, fidelity_probe
from flagrelease.evaluation.driver import Asked, Kept, conduct
from flagrelease.evaluation.harness import Harness, Patience, forget_failures
from flagrelease.evaluation.request import Endpoint, EvaluationRequest, Tally
from flagrelease.evaluation.spec import EvalSpec
from flagrelease.ports.meter import Meter
from flagrelease.ports.progress import Count
from flagrelease.serving.servers import Serve, Servers
from flagrelease.store.evidence import Evidence
from flagrelease.store.files import write_atomic
from flagrelease.verdict.group_sequential import PlannedLooks
from flagrelease.verdict.samples import SAMPLES, Sample, dump, read_samples
from flagrelease.verdict.types import ALPHA, Decision

__all__ = ["Gathered", "Pair", "gather", "lines"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Both sides' answers to one benchmark. Without a `baseline` there is nothing to compare; with `planned` they
    were asked by that design, which came to `decision`."""

    sheet: EvalSpec
    baseline: Sequence[Sample] | None
    candidate: Sequence[Sample]
    planned: PlannedLooks | None = None
    decision: Decision | None = None


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """All answers, with how many of them this run asked and the seconds that took; beside them the fidelity probe."""

    pairs: tuple[Pair, ...]
    asked: int
    seconds: float
    likeness: accuracy_results.Likeness
    evidence: tuple[Evidence, ...] = ()


def gather(job: Job, context: Context, sheets: Sequence[EvalSpec], harness: Harness, serve: Serve) -> Gathered:
    """Ask what is missing. Raises SmokeFailed for a server that cannot be evaluated; what was answered is kept."""
    if not sheets:
        return Gathered(
            pairs=(), asked=0, seconds=0.0, likeness=accuracy_results.Likeness(reason="nothing was asked here")
        )
    counted = _Counted(harness, context.meter)
    with Servers(job, context, serve) as servers:
        answering = _Answering(job, context, counted, servers, fail_alpha=ALPHA / len(sheets))
        known = [answering.baseline(sheet) for sheet in sheets]
        reference = _reference(job, context, servers)
        pairs = tuple(answering.pair(sheet, side) for sheet, side in zip(sheets, known, strict=True))
        if job.cell.holds_both:  # both are up by now, unless nothing was missing
            reference = _reference(job, context, servers)
        likeness, evidence = fidelity_probe.result(context, job.cell, reference, servers.get(job.cell.stack))
    return Gathered(pairs=pairs, asked=counted.asked, seconds=counted.seconds, likeness=likeness, evidence=evidence)


def _reference(job: Job, context: Context, servers: Servers) -> fidelity_probe.Reference | str | None:
    """The kept one, or a new one where the baseline's server is up: a diagnostic starts none."""
    cell, weights = job.cell, context.result(results.WEIGHTS)
    kept = fidelity_probe.find(context, cell, weights)
    if kept is None and servers.up(cell.baseline.stack):
        return fidelity_probe.keep(context, cell, weights, servers.get(cell.baseline.stack))
    return kept


class _Counted:
    """A harness that adds up what it asked; its time is inference."""

    def __init__(self, harness: Harness, meter: Meter) -> None:
        self._harness, self._meter = harness, meter
        self.asked, self.seconds = 0, 0.0

    def evaluate(self, request: EvaluationRequest) -> Tally:
        with self._meter.waiting():
            tally = self._harness.evaluate(request)
        self.asked += tally.asked
        self.seconds += tally.seconds
        return tally


class _Answering:
    def __init__(self, job: Job, context: Context, harness: Harness, servers: Servers, *, fail_alpha: float) -> None:
        self._job, self._context, self._harness, self._servers = job, context, harness, servers
        self._fail_alpha = fail_alpha
        self._sequential = job.cell.profile.sequential

    def baseline(self, sheet: EvalSpec) -> Kept | Asked | None:
        """A baseline that is whole; one that will grow; or None where there is none and none can be made here."""
        cell, context = self._job.cell, self._context
        kept = baselines.find(context, cell, context.result(results.WEIGHTS), sheet)
        if kept is not None and baselines.complete(kept, sheet):
            return Kept(kept)
        if not cell.own_baseline:
            if kept is not None:
                context.progress.note(f"the kept baseline of {sheet.benchmark} is only a part and cannot be used here")
            return None
        side = self._side(sheet, "baseline", cell.baseline.stack, kept or ())
        if self._sequential and self._job.cell.holds_both:
            return side
        return Kept(self._keep(sheet, side.whole(sheet.repeats)))

    def pair(self, sheet: EvalSpec, baseline: Kept | Asked | None) -> Pair:
        # Without a baseline they were judged by nobody; evaluated without one again, they are to be asked anew.
        earlier = () if baseline is None else self._unjudged(sheet)
        candidate = self._side(sheet, "candidate", self._job.cell.stack, earlier)
        if earlier:
            self._context.shared.remember(self._depends(sheet, self._job.cell.stack), None)
        if baseline is None or not self._sequential:
            before = None if baseline is None else baseline.samples()
            answers = candidate.whole(sheet.repeats)
            if before is None:
                self._keep_unjudged(sheet, answers)
            return Pair(sheet=sheet, baseline=before, candidate=answers)
        planned = PlannedLooks(
            questions=tuple((one.subset, one.id) for one in sheet.questions),
            margin=sheet.margin,
            repeats=sheet.repeats,
            fail_alpha=self._fail_alpha,
            reference=isinstance(baseline, Kept) and sheet.repeats > 1,
            chance=sheet.chance,
        )
        decision = conduct(planned, baseline, candidate)
        before, after = baseline.samples(), candidate.samples()
        for samples in (before, after):
            _check_failures(sheet, samples)
        if isinstance(baseline, Asked):
            self._keep(sheet, before)
        return Pair(sheet=sheet, baseline=before, candidate=after, planned=planned, decision=decision)

    def _side(self, sheet: EvalSpec, role: str, stack: Stack, kept: Sequence[Sample]) -> Asked:
        path = self._unfinished(sheet, role, stack)
        if kept and not path.exists():
            write_atomic(path, lines(kept))
        forget_failures(path)

        def server() -> tuple[Endpoint, Callable[[], None]]:
            served = self._servers.get(stack)
            return Endpoint(base_url=served.base_url, model=served.model), served.check

        def report(look: int, tally: Tally) -> None:
            failed = f", {tally.errors} failed" if tally.errors else ""
            at = f", look {look}" if look else ""
            count = Count(tally.done, tally.total, "questions" if sheet.repeats == 1 else "answers")
            self._context.progress.doing(
                f"{stack}: {sheet.benchmark}{at}, accuracy {tally.accuracy:.2f}{failed}", count
            )

        return Asked(
            harness=self._harness,
            server=server,
            evaluation=sheet.evaluation,
            questions=sheet.questions,
            into=path,
            report=report,
        )

    def _unfinished(self, sheet: EvalSpec, role: str, stack: Stack) -> Path:
        """Where the answers grow: a place named by everything they depend on."""
        folder = self._context.workspace.scratch(self._job.cell.slug, "accuracy")
        return folder / role / f"{sheet.benchmark}-{self._depends(sheet, stack)[:16]}" / SAMPLES

    def _depends(self, sheet: EvalSpec, stack: Stack) -> str:
        """What a stack's answers depend on, this very image included."""
        return fingerprint(
            {
                "image": self._context.result(results.IMAGE).digest,
                "weights": self._context.result(results.WEIGHTS).digest,
                "stack": stack,
                **sheet.conditions,
            }
        )

    def _unjudged(self, sheet: EvalSpec) -> Sequence[Sample]:
        """The candidate's answers of an earlier run that had nothing to compare them with."""
        evidence = self._context.shared.recall(self._depends(sheet, self._job.cell.stack), Evidence)
        if evidence is None:
            return ()
        try:
            self._context.evidence.read(evidence)  # checks every byte
        except Corrupt:
            return ()
        return read_samples(self._context.evidence.path(evidence))

    def _keep_unjudged(self, sheet: EvalSpec, samples: Sequence[Sample]) -> None:
        evidence = self._context.evidence.put(f"accuracy/unjudged.{sheet.benchmark}.jsonl", lines(samples))
        self._context.shared.remember(self._depends(sheet, self._job.cell.stack), evidence)

    def _keep(self, sheet: EvalSpec, samples: Sequence[Sample]) -> Sequence[Sample]:
        cell, context = self._job.cell, self._context
        evidence = context.evidence.put(f"accuracy/{cell.baseline.stack}.{sheet.benchmark}.jsonl", lines(samples))
        baselines.keep(context, cell, context.result(results.WEIGHTS), sheet, samples, evidence)
        return samples


def _check_failures(sheet: EvalSpec, samples: Sequence[Sample]) -> None:
    """As the harness does for each look, over all of them."""
    failed = [one.error for one in samples if one.error is not None]
    if len(failed) > Patience().allowed(len(samples)):
        raise SmokeFailed(
            f"{sheet.benchmark}: {len(failed)} of {len(samples)} requests failed",
            why=failed[0] or "",
            hint="that is no score; see the server's log, mend the endpoint and run again: answers are kept",
        )


def lines(samples: Sequence[Sample]) -> bytes:
    return "".join(map(dump, samples)).encode()
