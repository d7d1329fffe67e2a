"""Runs the stages of one cell, one after another, and keeps the ledger. Knows no engine."""

from __future__ import annotations

import traceback
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from flagrelease.config.cell import Cell
from flagrelease.contract.context import Context, Look, Ports, T
from flagrelease.contract.handles import Done, Finished, StageResult, Withholding
from flagrelease.contract.job import Job
from flagrelease.contract.results import IMAGE, Attribution
from flagrelease.contract.server_pool import ServerPool
from flagrelease.contract.stage import AnyStage, Remedy, keys
from flagrelease.errors import FlagreleaseError, Interrupted
from flagrelease.ports.meter import Meter
from flagrelease.redact import redact
from flagrelease.run import remedy as remedies
from flagrelease.run.board import Board
from flagrelease.run.history import History
from flagrelease.run.interrupt import StopRequested, Workers
from flagrelease.run.outcome import Outcome
from flagrelease.run.plan import Choice, Step, decide
from flagrelease.store import locks
from flagrelease.store.evidence import EvidenceStore
from flagrelease.store.ledger import Entry, Failure, Ledger, Spent, State, process_id
from flagrelease.store.parts import Keep, Parts
from flagrelease.store.workspace import Workspace

if TYPE_CHECKING:
    from flagrelease.ports.clock import Clock


@dataclass(frozen=True, kw_only=True)
class Session:
    """One invocation of `run`: what all of its cells share. `remedy` is tried after a gate that failed."""

    run_id: str
    workspace: Workspace
    ledger: Ledger
    evidence: EvidenceStore
    ports: Ports
    stages: tuple[AnyStage, ...]
    choice: Choice
    board: Board
    workers: Workers
    remedy: Remedy | None = None

    @property
    def known(self) -> tuple[AnyStage, ...]:
        """Every stage that can run, the remedy last."""
        return self.stages if self.remedy is None else (*self.stages, self.remedy.stage)


def new_run_id() -> str:
    return uuid.uuid4().hex[:12]


@dataclass(frozen=True)
class _Unless:
    """The results that were kept, but that of one stage: it runs after all."""

    ledger: Ledger
    stage: str

    def kept(self, cell: str, stage: str, key: str) -> Keep | None:
        return None if stage == self.stage else self.ledger.kept(cell, stage, key)


class CellRun:
    """A cell on its way through the stages. Used by one thread at a time."""

    def __init__(self, session: Session, job: Job) -> None:
        self.session = session
        self.outcomes: list[Outcome] = []
        self._since = 0  # the first outcome of this round
        self._steps: dict[str, Step] = {}
        self._done: dict[str, Done[StageResult]] = {}
        self._standing = ServerPool()
        self._take(job)
        look = Look(workspace=session.workspace, evidence=session.evidence, registry=session.ports.registry)
        self._past = History(session.ledger, look)

    @property
    def cell(self) -> Cell:
        return self.job.cell

    @property
    def _clock(self) -> Clock:
        return self.session.ports.clock

    def _take(self, job: Job) -> None:
        self.job = job
        self._keys = keys(job, self.session.known, self.session.ledger)

    def route(self) -> Iterator[AnyStage]:
        """The stages to advance, each after the one before has ended. A gate that failed is followed by the remedy
        and, where that names culprits, by all that depends on them once more."""
        remedy, ahead = self.session.remedy, list(self.session.stages)
        while ahead:
            yield ahead.pop(0)
            last = self.outcomes[-1]
            finished = self._finished
            if remedy is None or self.session.choice.only or not remedies.wanted(remedy, self.job, last, finished):
                continue
            yield remedy.stage
            found = self._finished.get(remedy.stage.result)
            if found is not None and found.culprits:
                ahead = self._next_round(remedy, found)

    def _next_round(self, remedy: Remedy, found: Attribution) -> list[AnyStage]:
        """Start the next round without the culprits; the stages that it goes through."""
        self._mark_remedied()
        self._since = len(self.outcomes)
        self._take(remedies.without(self.job, found))
        names = [stage.name for stage in self.session.stages]
        kept = names[: names.index(remedy.again.stage)]
        self._steps = {name: step for name, step in self._steps.items() if name in kept}
        self._done = {name: done for name, done in self._done.items() if name in kept}
        return [stage for stage in self.session.stages if stage.name not in kept]

    def advance(self, stage: AnyStage) -> Outcome:
        """Do the next stage: run it, reuse it, skip it, or say that an earlier one keeps it from running."""
        remedy = self.session.remedy
        try:
            outcome = self._remedy(stage) if remedy is not None and stage is remedy.stage else self._do(stage)
        except BaseException:
            self._standing.close()
            raise
        if outcome.red or not any(one.on_chip for one in self._after(stage)):
            self._standing.close()
        self.outcomes.append(outcome)
        self.session.board.settle(outcome)
        return outcome

    def _after(self, stage: AnyStage) -> tuple[AnyStage, ...]:
        stages = self.session.stages
        return stages[stages.index(stage) + 1 :] if stage in stages else ()

    def _remedy(self, stage: AnyStage) -> Outcome:
        """One that fails leaves the gate's failure as it is, and is no failure of the cell itself. It has the chip to
        itself: what still stands there is what failed."""
        self._standing.close()
        outcome = self._stoppable(stage)
        if outcome.status == "interrupted":
            self._mark_remedied()  # how the gate ends is open again
        if outcome.status != "failed":
            return outcome
        return replace(outcome, status="skipped", reason=f"no cause was found: {outcome.reason}")

    def _mark_remedied(self) -> None:
        self.outcomes = [replace(one, status="remedied") if one.red else one for one in self.outcomes]

    def _do(self, stage: AnyStage) -> Outcome:
        red = next((outcome for outcome in self.outcomes if outcome.red), None)
        if red is not None:
            reason = f"{red.stage} {red.status}"
            return Outcome(cell=self.cell.id, stage=stage.name, status="blocked", reason=reason)
        return self._stoppable(stage)

    def _stoppable(self, stage: AnyStage) -> Outcome:
        try:
            with self.session.workers.working():
                return self._advance(stage)
        except StopRequested:
            return self._stopped(stage)

    def stage(self, name: str) -> AnyStage:
        """The stage of this name, the remedy included."""
        return next(stage for stage in self.session.known if stage.name == name)

    def image_digest(self) -> str:
        """The digest of the cell's image, once there is one."""
        image = self._finished.get(IMAGE)
        return image.digest if image is not None else ""

    @property
    def _finished(self) -> Finished:
        return Finished(self._done.values())

    def abandon(self) -> None:
        """After a stop: say in the ledger that what still counts as running was interrupted."""
        for stage in self.session.known:
            last = self.session.ledger.last(self.cell.id, stage.name)
            if last is not None and last.state == "running" and last.run == self.session.run_id:
                self._write(stage.name, "interrupted", key=last.key, parts=last.parts, reads=last.reads)
        for stage in self.session.stages:
            settled = {outcome.stage for outcome in self.outcomes[self._since :]} | self._done.keys()
            if stage.name not in settled:
                self.outcomes.append(self._stopped(stage))

    def _advance(self, stage: AnyStage) -> Outcome:
        try:
            step = decide(self.job, stage, self._keys[stage.name], self._steps, self._past, self.session.choice)
        except FlagreleaseError as error:
            return self._failed(stage, error, Spent(seconds=0.0))
        self._steps[stage.name] = step
        if step.action == "skip":
            return Outcome(cell=self.cell.id, stage=stage.name, status="skipped", reason=step.reason)
        if step.action == "reuse" and step.entry is not None:
            self._keep(stage, step.entry, self._keys[stage.name].kept)
            return Outcome(cell=self.cell.id, stage=stage.name, status="reused", reason=step.reason)
        return self._run(stage, step)

    def _run(self, stage: AnyStage, step: Step) -> Outcome:
        if self._keys[stage.name].kept is not None:  # what is made now counts under its own key, and all after it
            self._keys = keys(self.job, self.session.known, _Unless(self.session.ledger, stage.name))
        meter = Meter(self._clock)
        start = self._clock.monotonic()

        def spent() -> Spent:
            return Spent(seconds=self._clock.monotonic() - start, outside=meter.outside, moved=meter.moved)

        self.session.board.begin(self.cell.id, stage.name, stage.doing)
        try:
            with ExitStack() as stack:
                if stage.on_chip:
                    self._hold_host(stack, stage)
                self._append(stage, "running")
                result = stage.run(self.job, self._context(stage, meter))
        except StopRequested:
            self._append(stage, "interrupted", spent=spent())
            return self._stopped(stage)
        except FlagreleaseError as error:
            return self._failed(stage, error, spent())
        except Exception as error:
            wrapped = FlagreleaseError(
                f"{stage.name} failed unexpectedly",
                why=f"{type(error).__name__}: {error}",
                hint="this is a defect of flagrelease; please report it with the text below",
                detail=traceback.format_exc(),
            )
            return self._failed(stage, wrapped, spent())
        entry = self._append(stage, "done", result=result, spent=spent())
        self._steps[stage.name] = Step(stage=stage.name, action="reuse", reason=step.reason, key=step.key, entry=entry)
        self._keep(stage, entry)
        return Outcome(
            cell=self.cell.id,
            stage=stage.name,
            status="skipped" if isinstance(result, Withholding) and result.withheld else "done",
            reason=result.summary,
            spent=entry.spent or spent(),
        )

    def _hold_host(self, stack: ExitStack, stage: AnyStage) -> None:
        """For the stage; or for as long as servers may stand there."""
        if self.cell.model.serve.colocate:
            self._standing.hold(lambda held: self._lock_host(held, stage))
        else:
            self._lock_host(stack, stage)

    def _lock_host(self, stack: ExitStack, stage: AnyStage) -> None:
        host = self.cell.chip.hosts[0]
        path = self.session.workspace.locks / f"host-{host.replace('/', '_').replace(':', '_')}.lock"
        progress = self.session.board.progress(self.cell.id, stage.name)
        stack.enter_context(
            locks.wait_for(
                path,
                self.session.run_id,
                lambda holder: progress.doing(f"waiting for host {host}, {holder}"),
                self._clock.sleep,
            )
        )

    def _context(self, stage: AnyStage, meter: Meter) -> Context:
        session = self.session
        return Context(
            run_id=session.run_id,
            workspace=session.workspace,
            evidence=session.evidence,
            ports=session.ports,
            progress=session.board.progress(self.cell.id, stage.name),
            meter=meter,
            reads=stage.reads,
            finished=self._finished,
            shared=self,
            server_pool=self._standing,
        )

    def recall(self, key: str, kind: type[T]) -> T | None:
        """As context.Shared: the newest baseline evaluation with this key, of whatever cell."""
        entries = reversed(self.session.ledger.entries())
        found = next((e for e in entries if e.stage == "baseline" and e.state == "done" and e.key == key), None)
        return None if found is None or found.result is None else msgspec.convert(found.result, kind)

    def remember(self, key: str, value: object) -> None:
        """As context.Shared."""
        self._write("baseline", "done", key=key, result=value)

    def _keep(self, stage: AnyStage, entry: Entry, kept: Keep | None = None) -> None:
        result = stage.result.decode(entry.result)
        self._done[stage.name] = Done(
            stage=stage.name, key=entry.key, result=result, spent=entry.spent or Spent(seconds=0.0), kept=kept
        )

    def _append(
        self,
        stage: AnyStage,
        state: State,
        *,
        result: StageResult | None = None,
        spent: Spent | None = None,
        error: Failure | None = None,
    ) -> Entry:
        reads = {name: self._steps[name].entry for name in stage.read_names}
        digests = {name: entry.result_digest for name, entry in reads.items() if entry is not None}
        made = self._keys[stage.name]
        return self._write(
            stage.name, state, key=made.key, parts=made.parts, reads=digests, result=result, spent=spent, error=error
        )

    def _write(
        self,
        stage: str,
        state: State,
        *,
        key: str,
        parts: Parts | None = None,
        reads: Mapping[str, str] | None = None,
        result: object = None,
        spent: Spent | None = None,
        error: Failure | None = None,
    ) -> Entry:
        entry = Entry(
            at=self._clock.now().isoformat(timespec="seconds"),
            run=self.session.run_id,
            cell=self.cell.id,
            stage=stage,
            state=state,
            key=key,
            process=process_id(),
            parts=parts,
            reads=reads or {},
            result=msgspec.to_builtins(result),
            spent=spent,
            error=error,
        )
        self.session.ledger.append(entry)
        return entry

    def _failed(self, stage: AnyStage, error: FlagreleaseError, spent: Spent) -> Outcome:
        failure = Failure(
            kind=type(error).__name__,
            code=error.exit_code,
            what=redact(error.what),
            why=redact(error.why),
            hint=redact(error.hint),
            detail=redact(error.detail),
        )
        with suppress(FlagreleaseError):  # a full disk must not hide the error that it caused
            self._append(stage, "failed", spent=spent, error=failure)
        return Outcome(
            cell=self.cell.id,
            stage=stage.name,
            status="failed",
            reason=f"{failure.what}: {failure.why}" if failure.why else failure.what,
            spent=spent,
            error=failure,
        )

    def _stopped(self, stage: AnyStage) -> Outcome:
        stopped = Interrupted("interrupted", hint="run again: finished stages are kept")
        failure = Failure(kind="Interrupted", code=stopped.exit_code, what=stopped.what, hint=stopped.hint)
        return Outcome(cell=self.cell.id, stage=stage.name, status="interrupted", reason="interrupted", error=failure)
