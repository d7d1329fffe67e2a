"""Gets both sides' answers to every benchmark of a cell: as a sequential design asks for them, or all of them.

Where a chip holds both stacks at once (a CPU), both stay up and grow side by side, so neither is asked more than the
verdict takes. An accelerator's memory holds one server as users start it, and restarting it at every look would cost
more than it saves: there the baseline is answered in whole, which every further cell and release of the model uses
again, and then the candidate is asked look by look against it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import msgspec

from flagrelease import baselines, fidelity, results
from flagrelease.cell import fingerprint
from flagrelease.errors import Corrupt, SmokeFailed
from flagrelease.evaluation.sequence import Asked, Kept, conduct
from flagrelease.evaluation.sheet import Sheet
from flagrelease.evidence import Evidence
from flagrelease.gates import ALPHA
from flagrelease.matrix import Stack
from flagrelease.ports.harness import Endpoint, Evaluation, Harness, Tally
from flagrelease.ports.harness_own import Patience, forget_failures
from flagrelease.ports.progress import Count
from flagrelease.samples import SAMPLES, Sample, dump, read_samples
from flagrelease.serving import Served
from flagrelease.stage import Context, Job, Meter
from flagrelease.workspace import write_atomic

if TYPE_CHECKING:
    from flagrelease.looks import PlannedLooks
    from flagrelease.stats.design import Decision

__all__ = ["Gathered", "Pair", "Serve", "Servers", "gather", "lines"]


class Serve(Protocol):
    """Starts a stack and stops it after the block: serving.served."""

    def __call__(
        self,
        job: Job,
        context: Context,
        *,
        image: results.Image,
        weights: results.Weights,
        stack: Stack,
        beside: bool = False,
    ) -> AbstractContextManager[Served]: ...


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Both sides' answers to one benchmark. Without a `baseline` there is nothing to compare; with `planned` they
    were asked by that design, which came to `decision`."""

    sheet: Sheet
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
    likeness: results.Likeness
    evidence: tuple[Evidence, ...] = ()


def gather(job: Job, context: Context, sheets: Sequence[Sheet], harness: Harness, serve: Serve) -> Gathered:
    """Ask what is missing. Raises SmokeFailed for a server that cannot be evaluated; what was answered is kept."""
    if not sheets:
        return Gathered(pairs=(), asked=0, seconds=0.0, likeness=results.Likeness(reason="nothing was asked here"))
    counted = _Counted(harness, context.meter)
    with Servers(job, context, serve) as servers:
        answering = _Answering(job, context, counted, servers, fail_alpha=ALPHA / len(sheets))
        known = [answering.baseline(sheet) for sheet in sheets]
        reference = _reference(job, context, servers)
        pairs = tuple(answering.pair(sheet, side) for sheet, side in zip(sheets, known, strict=True))
        if job.cell.holds_both:  # both are up by now, unless nothing was missing
            reference = _reference(job, context, servers)
        likeness, evidence = fidelity.result(context, job.cell, reference, servers.get(job.cell.stack))
    return Gathered(pairs=pairs, asked=counted.asked, seconds=counted.seconds, likeness=likeness, evidence=evidence)


def _reference(job: Job, context: Context, servers: Servers) -> fidelity.Reference | str | None:
    """The kept one, or a new one where the baseline's server is up: a diagnostic starts none."""
    cell, weights = job.cell, context.upstream["weights"]
    kept = fidelity.find(context, cell, weights)
    if kept is None and servers.up(cell.baseline.stack):
        return fidelity.keep(context, cell, weights, servers.get(cell.baseline.stack))
    return kept


class Servers:
    """The cell's stacks, each started when something is asked of it. What is up stays up until the end or, where
    the chip holds one server only, until the other is wanted."""

    def __init__(self, job: Job, context: Context, serve: Serve) -> None:
        self._job, self._context, self._serve = job, context, serve
        self._up: dict[Stack, Served] = {}
        self._stack = ExitStack()

    def get(self, stack: Stack) -> Served:
        if stack in self._up:
            return self._up[stack]
        if not self._job.cell.holds_both:
            self._up.clear()
            self._stack.pop_all().close()
        upstream = self._context.upstream
        image, weights, beside = upstream["image"], upstream["weights"], bool(self._up)
        starting = self._serve(self._job, self._context, image=image, weights=weights, stack=stack, beside=beside)
        self._up[stack] = self._stack.enter_context(starting)
        return self._up[stack]

    def up(self, stack: Stack) -> bool:
        return stack in self._up

    def __enter__(self) -> Servers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


class _Counted:
    """A harness that adds up what it asked; its time is inference."""

    def __init__(self, harness: Harness, meter: Meter) -> None:
        self._harness, self._meter = harness, meter
        self.asked, self.seconds = 0, 0.0

    def evaluate(
        self,
        endpoint: Endpoint,
        evaluation: Evaluation,
        into: Path,
        *,
        watch: Callable[[], None],
        report: Callable[[Tally], None],
    ) -> Tally:
        with self._meter.waiting():
            tally = self._harness.evaluate(endpoint, evaluation, into, watch=watch, report=report)
        self.asked += tally.asked
        self.seconds += tally.seconds
        return tally


class _Answering:
    def __init__(self, job: Job, context: Context, harness: Harness, servers: Servers, *, fail_alpha: float) -> None:
        self._job, self._context, self._harness, self._servers = job, context, harness, servers
        self._fail_alpha = fail_alpha
        self._sequential = job.cell.profile.sequential

    def baseline(self, sheet: Sheet) -> Kept | Asked | None:
        """A baseline that is whole; one that will grow; or None where there is none and none can be made here."""
        cell, context = self._job.cell, self._context
        kept = baselines.find(context, cell, context.upstream["weights"], sheet)
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

    def pair(self, sheet: Sheet, baseline: Kept | Asked | None) -> Pair:
        from flagrelease.looks import PlannedLooks  # numpy and scipy, which planning does without

        # Without a baseline they were judged by nobody; evaluated without one again, they are to be asked anew.
        earlier = () if baseline is None else self._unjudged(sheet)
        candidate = self._side(sheet, "candidate", self._job.cell.stack, earlier)
        if earlier:
            self._context.remember(self._depends(sheet, self._job.cell.stack), None)
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

    def _side(self, sheet: Sheet, role: str, stack: Stack, kept: Sequence[Sample]) -> Asked:
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

    def _unfinished(self, sheet: Sheet, role: str, stack: Stack) -> Path:
        """Where the answers grow: a place named by everything they depend on."""
        folder = self._context.workspace.scratch(self._job.cell.slug, "accuracy")
        return folder / role / f"{sheet.benchmark}-{self._depends(sheet, stack)[:16]}" / SAMPLES

    def _depends(self, sheet: Sheet, stack: Stack) -> str:
        """What a stack's answers depend on, this very image included."""
        return fingerprint(
            {
                "image": self._context.upstream["image"].digest,
                "weights": self._context.upstream["weights"].digest,
                "stack": stack,
                **sheet.conditions,
            }
        )

    def _unjudged(self, sheet: Sheet) -> Sequence[Sample]:
        """The candidate's answers of an earlier run that had nothing to compare them with."""
        found = self._context.recall(self._depends(sheet, self._job.cell.stack))
        if found is None:
            return ()
        evidence = msgspec.convert(found, Evidence, from_attributes=True)
        try:
            self._context.evidence.read(evidence)  # checks every byte
        except Corrupt:
            return ()
        return read_samples(self._context.evidence.path(evidence))

    def _keep_unjudged(self, sheet: Sheet, samples: Sequence[Sample]) -> None:
        evidence = self._context.evidence.put(f"accuracy/unjudged.{sheet.benchmark}.jsonl", lines(samples))
        self._context.remember(self._depends(sheet, self._job.cell.stack), evidence)

    def _keep(self, sheet: Sheet, samples: Sequence[Sample]) -> Sequence[Sample]:
        cell, context = self._job.cell, self._context
        evidence = context.evidence.put(f"accuracy/{cell.baseline.stack}.{sheet.benchmark}.jsonl", lines(samples))
        baselines.keep(context, cell, context.upstream["weights"], sheet, samples, evidence)
        return samples


def _check_failures(sheet: Sheet, samples: Sequence[Sample]) -> None:
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
