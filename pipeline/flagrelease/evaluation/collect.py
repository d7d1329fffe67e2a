"""Collect both sides' answers to every benchmark of a cell: as a group-sequential design requests them, or all.

If a chip can hold both servers (a CPU), both stay up and are asked in turn, so neither is asked more than the verdict
requires. An accelerator's memory holds one server as users start it, and restarting servers at every look would cost
more than it saves: so the baseline is evaluated completely, for use by every later cell and release of the model,
and then the candidate is asked look by look against it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flagrelease.config.cell import fingerprint
from flagrelease.config.matrix import Stack
from flagrelease.contract import accuracy_results, results
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.errors import Corrupt, SmokeFailed
from flagrelease.evaluation import attempts, baselines, token_gate, transcripts
from flagrelease.evaluation.attempts import Turn
from flagrelease.evaluation.driver import ServedSide, StoredSide, run_design
from flagrelease.evaluation.harness import Harness, Patience, forget_failures
from flagrelease.evaluation.request import Endpoint, EvaluationRequest, Tally
from flagrelease.evaluation.spec import EvalSpec
from flagrelease.evaluation.transcripts import REPLIES
from flagrelease.ports.meter import Meter
from flagrelease.ports.progress import Count
from flagrelease.serving.server import Served
from flagrelease.serving.servers import Serve, Servers
from flagrelease.store.evidence import Evidence
from flagrelease.store.files import write_atomic
from flagrelease.verdict import group_sequential
from flagrelease.verdict.attempts import judged_answers
from flagrelease.verdict.group_sequential import PlannedLooks
from flagrelease.verdict.samples import SAMPLES, Sample, dump, read_samples
from flagrelease.verdict.types import ALPHA, BASELINE_WEIGHT, FAIL_ALPHA, RESERVE, Decision

__all__ = ["Gathered", "Pair", "gather", "lines", "may_be_stored"]


_SILENT_SECONDS = 30.0
"""After so long without a response of the server, the progress line says so."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Both sides' answers to one benchmark."""

    spec: EvalSpec
    """The benchmark's specification."""
    baseline: Sequence[Sample] | None
    """The baseline's answers; None if there are none to compare with."""
    candidate: Sequence[Sample]
    """The candidate's answers."""
    planned: PlannedLooks | None = None
    """The group-sequential design that requested the answers; None if all were asked."""
    decision: Decision | None = None
    """The design's decision."""
    turn: Turn | None = None
    """Its place among the attempts of its lineage; None if there is nothing to judge."""


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The answers to all benchmarks of a cell."""

    pairs: tuple[Pair, ...]
    """One for each benchmark."""
    asked: int
    """Answers obtained by this run."""
    seconds: float
    """Seconds that took."""
    gate: accuracy_results.TokenGate
    """The result of the token gate."""
    evidence: tuple[Evidence, ...] = ()
    """The token gate's evidence."""


def gather(job: Job, context: Context, specs: Sequence[EvalSpec], harness: Harness, serve: Serve) -> Gathered:
    """Ask the token gate and, unless it fails, for the missing answers.

    Raises SmokeFailed for a server that cannot be evaluated; answers are kept.
    """
    if not specs:
        return Gathered(
            pairs=(), asked=0, seconds=0.0, gate=accuracy_results.TokenGate(reason="nothing was asked here")
        )
    counted = _Counted(harness, context.meter)
    with Servers(job, context, serve) as servers:
        gate, evidence = token_gate.gate(job, context, specs, servers)
        if gate.verdict == "FAIL":
            return Gathered(pairs=(), asked=0, seconds=0.0, gate=gate, evidence=evidence)
        collector = _Collector(job, context, counted, servers, fail_alpha=min(ALPHA / len(specs), FAIL_ALPHA))
        known = [collector.baseline(spec) for spec in specs]
        pairs = tuple(collector.pair(spec, side) for spec, side in zip(specs, known, strict=True))
    return Gathered(pairs=pairs, asked=counted.asked, seconds=counted.seconds, gate=gate, evidence=evidence)


class _Counted:
    """A harness that counts answers and seconds; its time is metered as inference."""

    def __init__(self, harness: Harness, meter: Meter) -> None:
        self._harness, self._meter = harness, meter
        self.asked, self.seconds = 0, 0.0

    def evaluate(self, request: EvaluationRequest) -> Tally:
        with self._meter.waiting():
            tally = self._harness.evaluate(request)
        self.asked += tally.asked
        self.seconds += tally.seconds
        return tally


class _Collector:
    """Collects the answers of one cell."""

    def __init__(self, job: Job, context: Context, harness: Harness, servers: Servers, *, fail_alpha: float) -> None:
        self._job, self._context, self._harness, self._servers = job, context, harness, servers
        self._fail_alpha = fail_alpha
        self._sequential = job.cell.profile.sequential
        self._token_seconds: dict[tuple[str, int], float] = {}

    def baseline(self, spec: EvalSpec) -> StoredSide | ServedSide | None:
        """A complete baseline, one that will grow, or None if there is none and this chip cannot make it."""
        cell, context = self._job.cell, self._context
        stored = baselines.find(context, cell, context.result(results.WEIGHTS), spec)
        complete = stored is not None and baselines.complete(stored, spec)
        # Failed answers are asked again where that is possible: each of them widens the interval of every cell.
        again = complete and cell.own_baseline and any(sample.error is not None for sample in stored or ())
        if stored is not None and complete and not again:
            return StoredSide(stored)
        if not cell.own_baseline:
            if stored is not None:
                context.progress.note(f"the stored baseline of {spec.benchmark} is incomplete and cannot be used here")
            return None
        side = self._side(spec, "baseline", cell.baseline.stack, stored or ())
        if self._sequential and self._job.cell.holds_both:
            return side
        return StoredSide(self._keep(spec, side.complete(spec.repeats)))

    def pair(self, spec: EvalSpec, baseline: StoredSide | ServedSide | None) -> Pair:
        """Collect both sides' answers to one benchmark."""
        # Reuse unjudged answers only once a baseline exists.
        earlier = () if baseline is None else self._unjudged(spec)
        candidate = self._side(spec, "candidate", self._job.cell.stack, earlier)
        if earlier:
            self._context.shared.remember(self._answers_key(spec, self._job.cell.stack), None)
        if baseline is None or not self._sequential:
            before = None if baseline is None else baseline.samples()
            answers = candidate.complete(spec.repeats)
            if before is None:
                self._keep_unjudged(spec, answers)
                return Pair(spec=spec, baseline=None, candidate=answers)
            turn = attempts.turn(self._job, self._context, spec).of(judged_answers(spec.margin, before, answers))
            return Pair(spec=spec, baseline=before, candidate=answers, turn=turn)
        turn, planned, decision = self._decide(spec, baseline, candidate)
        before, after = baseline.samples(), candidate.samples()
        if isinstance(baseline, ServedSide):
            self._keep(spec, before)
        return Pair(spec=spec, baseline=before, candidate=after, planned=planned, decision=decision, turn=turn)

    def _decide(
        self, spec: EvalSpec, baseline: StoredSide | ServedSide, candidate: ServedSide
    ) -> tuple[Turn, PlannedLooks, Decision]:
        """Run the design at the level of each earlier attempt, and then at its own, until the answers are those of an
        attempt: a server that repeats its answers repeats its attempt. Levels fall, so no answer is asked in vain."""
        turn = attempts.turn(self._job, self._context, spec)
        while True:
            planned = self._planned(spec, baseline, turn.level)
            decision = run_design(planned, baseline, candidate)
            before, after = baseline.samples(), candidate.samples()
            for samples in (before, after):
                _check_failures(spec, samples)
            judged = group_sequential.judged(planned, decision, before, after)
            turn = replace(turn, judged=judged_answers(planned.record(), *judged))
            if turn.new or turn.repeated:
                return turn, planned, decision
            turn = turn.next()

    def _planned(self, spec: EvalSpec, baseline: StoredSide | ServedSide, level: float) -> PlannedLooks:
        reference = isinstance(baseline, StoredSide) and spec.repeats > 1
        return PlannedLooks(
            questions=tuple((question.subset, question.id) for question in spec.questions),
            margin=spec.margin,
            repeats=spec.repeats,
            fail_alpha=self._fail_alpha,
            reference=reference,
            chance=spec.chance,
            population=spec.total,
            looks=group_sequential.interim_analyses(spec.margin, spec.repeats),
            reserve=RESERVE,
            alpha=level,
            baseline_weight=BASELINE_WEIGHT if reference else 0.0,
        )

    def _side(self, spec: EvalSpec, role: str, stack: Stack, earlier: Sequence[Sample]) -> ServedSide:
        path = self._unfinished(spec, role, stack)
        if earlier and not path.exists():
            write_atomic(path, lines(earlier))
        forget_failures(path)

        def server() -> tuple[Endpoint, Callable[[], None]]:
            served = self._servers.get(stack)
            return self._endpoint(served, spec.evaluation.concurrency), served.check

        def report(look: int, tally: Tally) -> None:
            failed = f", {tally.errors} failed" if tally.errors else ""
            at_look = f", look {look}" if look else ""
            silent = f", no response for {tally.silent:.0f} s" if tally.silent >= _SILENT_SECONDS else ""
            count = Count(tally.done, tally.total, "questions" if spec.repeats == 1 else "answers")
            self._context.progress.doing(
                f"{stack}: {spec.benchmark}{at_look}, accuracy {tally.accuracy:.2f}{failed}{silent}", count
            )

        return ServedSide(
            harness=self._harness,
            server=server,
            evaluation=spec.evaluation,
            questions=spec.questions,
            into=path,
            report=report,
        )

    def _endpoint(self, served: Served, concurrency: int) -> Endpoint:
        """The server's endpoint, with its speed, which is measured once for each server and load."""
        key = (served.base_url, concurrency)
        if key not in self._token_seconds:
            self._context.progress.doing("measuring how fast the server answers")
            with self._context.meter.waiting():
                self._token_seconds[key] = served.token_seconds(concurrency)
        return Endpoint(base_url=served.base_url, model=served.model, token_seconds=self._token_seconds[key])

    def _unfinished(self, spec: EvalSpec, role: str, stack: Stack) -> Path:
        """The samples file to append to; its folder is named by everything that the answers depend on."""
        folder = self._context.workspace.scratch(self._job.cell.slug, "accuracy")
        return folder / role / f"{spec.benchmark}-{self._answers_key(spec, stack)[:16]}" / SAMPLES

    def _answers_key(self, spec: EvalSpec, stack: Stack) -> str:
        """The fingerprint of everything that a stack's answers depend on, the image included."""
        return fingerprint(
            {
                "image": self._context.result(results.IMAGE).digest,
                "weights": self._context.result(results.WEIGHTS).digest,
                "stack": stack,
                **spec.conditions,
            }
        )

    def _unjudged(self, spec: EvalSpec) -> Sequence[Sample]:
        """The candidate's answers of an earlier run without a baseline."""
        evidence = self._context.shared.recall(self._answers_key(spec, self._job.cell.stack), Evidence)
        if evidence is None:
            return ()
        try:
            self._context.evidence.read(evidence)  # checks every byte
        except Corrupt:
            return ()
        return read_samples(self._context.evidence.path(evidence))

    def _keep_unjudged(self, spec: EvalSpec, samples: Sequence[Sample]) -> None:
        evidence = self._context.evidence.put(f"accuracy/unjudged.{spec.benchmark}.jsonl", lines(samples))
        self._context.shared.remember(self._answers_key(spec, self._job.cell.stack), evidence)

    def _keep(self, spec: EvalSpec, samples: Sequence[Sample]) -> Sequence[Sample]:
        cell, context = self._job.cell, self._context
        evidence = context.evidence.put(f"accuracy/{cell.baseline.stack}.{spec.benchmark}.jsonl", lines(samples))
        replies = self._baseline_replies(spec, samples)
        baselines.keep(context, cell, context.result(results.WEIGHTS), spec, samples, evidence, replies)
        return samples

    def _baseline_replies(self, spec: EvalSpec, samples: Sequence[Sample]) -> Evidence | None:
        """The replies of earlier runs and of this one, stored."""
        cell, context = self._job.cell, self._context
        if not may_be_stored(self._job, spec):
            return None
        earlier = baselines.replies(context, cell, context.result(results.WEIGHTS), spec)
        places = [*([earlier] if earlier else []), self._unfinished(spec, "baseline", cell.baseline.stack).parent]
        collected = transcripts.collect(places, {sample.key for sample in samples})
        if not collected:
            return None
        return context.evidence.put(f"accuracy/{cell.baseline.stack}.{spec.benchmark}.{REPLIES}", collected)


def may_be_stored(job: Job, spec: EvalSpec) -> bool:
    """Whether replies may be stored: those to password-protected questions may quote them."""
    return "#" not in job.matrix.benchmarks[spec.benchmark].data


def _check_failures(spec: EvalSpec, samples: Sequence[Sample]) -> None:
    """Raise SmokeFailed if too many requests failed over all looks; the harness checks each look alone."""
    failed = [sample.error for sample in samples if sample.error is not None]
    if len(failed) > Patience().allowed(len(samples)):
        raise SmokeFailed(
            f"{spec.benchmark}: {len(failed)} of {len(samples)} requests failed",
            why=failed[0] or "",
            hint="too many failures to report a score; see the server's log, fix the endpoint and run again; answers "
            "are kept",
        )


def lines(samples: Sequence[Sample]) -> bytes:
    """The samples as the content of a samples file."""
    return "".join(map(dump, samples)).encode()
