"""Run the stages of one cell in sequence and record them in the ledger. Independent of the executor."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from flagrelease.config.cell import Cell
from flagrelease.contract.context import Context, Look, Ports, T
from flagrelease.contract.handles import Done, Finished, Judged, R, ResultOf, StageResult, Withholding
from flagrelease.contract.job import Job
from flagrelease.contract.results import Attribution
from flagrelease.contract.server_pool import ServerPool
from flagrelease.contract.stage import AnyStage, Remedy, keys
from flagrelease.errors import REPORT, FlagreleaseError, Interrupted, crash_report
from flagrelease.ports.meter import Meter
from flagrelease.recipe.devices import Devices
from flagrelease.redact import redact
from flagrelease.run import cleanup
from flagrelease.run import remedy as remedies
from flagrelease.run.board import Board
from flagrelease.run.history import History
from flagrelease.run.interrupt import StopRequested, Workers
from flagrelease.run.outcome import Outcome
from flagrelease.run.plan import Choice, Step, decide
from flagrelease.store.evidence import EvidenceStore
from flagrelease.store.files import machine_fault
from flagrelease.store.ledger import BASELINE, Entry, Failure, Ledger, Spent, State, process_id
from flagrelease.store.machine import SharedMachine
from flagrelease.store.parts import Keep, Parts
from flagrelease.store.workspace import Workspace

if TYPE_CHECKING:
    from flagrelease.ports.clock import Clock


@dataclass(frozen=True, kw_only=True)
class Session:
    """The state that all cells of one invocation of `run` share."""

    run_id: str
    workspace: Workspace
    ledger: Ledger
    evidence: EvidenceStore
    ports: Ports
    stages: tuple[AnyStage, ...]
    choice: Choice
    board: Board
    workers: Workers
    machine: SharedMachine = field(default_factory=SharedMachine.here)
    """What this run shares with all others on this machine."""
    remedy: Remedy | None = None
    """Run after a failed gate, in order to go on without the operators at fault."""

    @property
    def known(self) -> tuple[AnyStage, ...]:
        """All stages that can run, the remedy last."""
        return self.stages if self.remedy is None else (*self.stages, self.remedy.stage)


def new_run_id() -> str:
    return uuid.uuid4().hex[:12]


@dataclass(frozen=True)
class _KeptExcept:
    """The decisions to keep results, except for one stage, which runs after all."""

    ledger: Ledger
    stage: str

    def kept(self, cell: str, stage: str, key: str) -> Keep | None:
        return None if stage == self.stage else self.ledger.kept(cell, stage, key)


class CellRun:
    """The run of one cell through the stages. Used by one thread at a time."""

    def __init__(self, session: Session, job: Job) -> None:
        self.session = session
        self.outcomes: list[Outcome] = []
        self._round_start = 0  # index of the first outcome of this round
        self._steps: dict[str, Step] = {}
        self._done: dict[str, Done[StageResult]] = {}
        self._servers = ServerPool()
        self._devices: Devices | None = None
        self._set_job(job)
        look = Look(workspace=session.workspace, evidence=session.evidence, registry=session.ports.registry)
        self._past = History(session.ledger, look)

    @property
    def cell(self) -> Cell:
        return self.job.cell

    @property
    def _clock(self) -> Clock:
        return self.session.ports.clock

    def _set_job(self, job: Job) -> None:
        self.job = job
        self._keys = keys(job, self.session.known, self.session.ledger)

    def route(self) -> Iterator[AnyStage]:
        """The stages to advance, each after the previous one has ended. A failed gate is followed by the remedy and, if
        that names culprits, by another round of all stages that depend on them."""
        remedy, pending = self.session.remedy, list(self.session.stages)
        while pending:
            yield pending.pop(0)
            last = self.outcomes[-1]
            finished = self._finished
            if remedy is None or self.session.choice.only or not remedies.wanted(remedy, self.job, last, finished):
                continue
            yield remedy.stage
            attribution = self._finished.get(remedy.stage.result)
            if attribution is not None and attribution.culprits:
                pending = self._next_round(remedy, attribution)

    def _next_round(self, remedy: Remedy, attribution: Attribution) -> list[AnyStage]:
        """Start the next round without the culprits. Returns its stages."""
        self._mark_remedied()
        self._round_start = len(self.outcomes)
        self._set_job(remedies.without(self.job, attribution))
        names = [stage.name for stage in self.session.stages]
        unaffected = names[: names.index(remedy.again.stage)]
        self._steps = {name: step for name, step in self._steps.items() if name in unaffected}
        self._done = {name: done for name, done in self._done.items() if name in unaffected}
        return [stage for stage in self.session.stages if stage.name not in unaffected]

    def advance(self, stage: AnyStage) -> Outcome:
        """Run, reuse or skip the next stage, or mark it as not run because of an earlier one."""
        remedy = self.session.remedy
        try:
            outcome = self._remedy(stage) if remedy is not None and stage is remedy.stage else self._do(stage)
        except BaseException:
            self._servers.close()
            raise
        if outcome.red or not any(later.on_chip for later in self._after(stage)):
            self._servers.close()
        outcome = replace(outcome, reason=redact(outcome.reason))  # for the board, Prefect and the summary
        self.outcomes.append(outcome)
        self.session.board.settle(outcome)
        return outcome

    def _after(self, stage: AnyStage) -> tuple[AnyStage, ...]:
        stages = self.session.stages
        return stages[stages.index(stage) + 1 :] if stage in stages else ()

    def _remedy(self, stage: AnyStage) -> Outcome:
        """Run the remedy. If it fails, the gate's failure stands and the remedy counts as skipped."""
        self._servers.close()  # attribution needs the entire chip
        outcome = self._stoppable(stage)
        if outcome.status in ("interrupted", "not run"):
            self._mark_remedied()  # the gate is undecided again
        if outcome.status != "failed":
            return outcome
        return replace(outcome, status="skipped", reason=f"no cause was found: {outcome.reason}")

    def _mark_remedied(self) -> None:
        self.outcomes = [replace(o, status="remedied") if o.red else o for o in self.outcomes]

    def _do(self, stage: AnyStage) -> Outcome:
        red = next((outcome for outcome in self.outcomes if outcome.red), None)
        if red is not None:
            reason = red.reason if red.status == "not run" else f"{red.stage} {red.status}"
            return Outcome(cell=self.cell.id, stage=stage.name, status="not run", reason=reason)
        return self._stoppable(stage)

    def _stoppable(self, stage: AnyStage) -> Outcome:
        try:
            with self.session.workers.working():
                return self._advance(stage)
        except StopRequested:
            return self._stopped(stage)

    def stage(self, name: str) -> AnyStage:
        """The stage, or the remedy, with this name."""
        return next(stage for stage in self.session.known if stage.name == name)

    def result(self, handle: ResultOf[R]) -> R | None:
        """The result of a stage of this run; None until it has finished."""
        return self._finished.get(handle)

    @property
    def _finished(self) -> Finished:
        return Finished(self._done.values())

    def abandon(self) -> None:
        """After a stop, record every stage that is still marked as running as interrupted."""
        for stage in self.session.known:
            last = self.session.ledger.last(self.cell.id, stage.name)
            if last is not None and last.state == "running" and last.run == self.session.run_id:
                self._write(stage.name, "interrupted", key=last.key, parts=last.parts, reads=last.reads)
        for stage in self.session.stages:
            ended = {outcome.stage for outcome in self.outcomes[self._round_start :]} | self._done.keys()
            if stage.name not in ended:
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
            return Outcome(
                cell=self.cell.id, stage=stage.name, status="reused", reason=step.reason, verdict=self._verdict(stage)
            )
        return self._run(stage, step)

    def _run(self, stage: AnyStage, step: Step) -> Outcome:
        if self._keys[stage.name].kept is not None:  # the new result has its own key, and later stages depend on it
            self._keys = keys(self.job, self.session.known, _KeptExcept(self.session.ledger, stage.name))
        meter = Meter(self._clock)
        start = self._clock.monotonic()

        def spent() -> Spent:
            return Spent(seconds=self._clock.monotonic() - start, outside=meter.outside, moved=meter.moved)

        self.session.board.begin(self.cell.id, stage.name, stage.doing)
        try:
            with ExitStack() as stack:
                if stage.on_chip:
                    self._hold_host(stack, stage)
                    start = self._clock.monotonic()  # waiting for another run is not the stage's time
                self._append(stage, "running")
                result = stage.run(self.job, self._context(stage, meter))
        except StopRequested:
            self._append(stage, "interrupted", spent=spent())
            return self._stopped(stage)
        except FlagreleaseError as error:
            return self._failed(stage, error, spent())
        except Exception as error:
            if (fault := machine_fault(error)) is not None:
                return self._failed(stage, fault, spent())
            wrapped = FlagreleaseError(
                f"{stage.name} failed unexpectedly",
                why=f"{type(error).__name__}: {error}",
                hint=f"{REPORT}; `flagrelease explain {self.cell.id}` shows the lines again",
                detail=crash_report(error),
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
            verdict=self._verdict(stage),
        )

    def _verdict(self, stage: AnyStage) -> str:
        """The verdict of a finished gate; empty for other stages."""
        result = self._done[stage.name].result
        return result.verdict if isinstance(result, Judged) else ""

    def _hold_host(self, stack: ExitStack, stage: AnyStage) -> None:
        """Hold the host's lock for the stage, or, with colocated servers, for as long as these may run."""
        if self.cell.model.serve.colocate:
            self._servers.hold(lambda held: self._lock_host(held, stage))
        else:
            self._lock_host(stack, stage)

    def _lock_host(self, stack: ExitStack, stage: AnyStage) -> None:
        """Hold the devices that the cell needs, or the whole machine if it is not known how many it has."""
        session, chip = self.session, self.cell.chip
        host, devices = chip.hosts[0], self.cell.model.serve.devices
        progress = session.board.progress(self.cell.id, stage.name)
        names = {"cell": self.cell.id, "workspace": str(session.workspace.root)}
        sleep = self._clock.sleep
        if chip.host_devices is None:
            said = f"waiting for the chip of {host}"
            held = session.machine.chip(
                host, session.run_id, names, lambda holder: progress.doing(f"{said}, {holder}"), sleep
            )
            stack.enter_context(held)
        else:
            said = f"waiting for {devices} device{'s' * (devices > 1)} of {host}"
            taken = session.machine.devices(
                *(host, devices, chip.host_devices, session.run_id, names),
                lambda holder: progress.doing(f"{said}: {holder}"),
                sleep,
            )
            self._devices = stack.enter_context(taken)
        cleanup.dead_runs(session.machine, session.ports.runner, progress.note)

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
            server_pool=self._servers,
            devices=self._devices if stage.on_chip else None,
        )

    def recall(self, key: str, kind: type[T]) -> T | None:
        """Implements context.Shared: the newest baseline evaluation with this key, of any cell."""
        entries = reversed(self.session.ledger.entries())
        entry = next((e for e in entries if e.stage == BASELINE and e.state == "done" and e.key == key), None)
        return None if entry is None or entry.result is None else msgspec.convert(entry.result, kind)

    def remember(self, key: str, value: object) -> None:
        """Implements context.Shared."""
        self._write(BASELINE, "done", key=key, result=value)

    def _keep(self, stage: AnyStage, entry: Entry, kept: Keep | None = None) -> None:
        result = stage.result.decode(entry.result)
        self._done[stage.name] = Done(
            stage=stage.name,
            key=entry.key,
            result=result,
            spent=entry.spent or Spent(seconds=0.0),
            kept=kept,
            at=entry.at,
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
        key = self._keys[stage.name]
        return self._write(
            stage.name, state, key=key.key, parts=key.parts, reads=digests, result=result, spent=spent, error=error
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
        return self.session.ledger.append(entry)

    def _failed(self, stage: AnyStage, error: FlagreleaseError, spent: Spent) -> Outcome:
        failure = Failure(
            kind=type(error).__name__,
            code=error.exit_code,
            what=redact(error.what),
            why=redact(error.why),
            hint=redact(error.hint),
            detail=redact(error.detail),
        )
        with suppress(FlagreleaseError):  # a full disk must not mask the error that it caused
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
        last = self.session.ledger.last(self.cell.id, stage.name)
        if last is not None and last.run == self.session.run_id and last.state in ("running", "interrupted"):
            return Outcome(
                cell=self.cell.id, stage=stage.name, status="interrupted", reason="interrupted", error=failure
            )
        reason = "the run was interrupted before this stage"
        return Outcome(cell=self.cell.id, stage=stage.name, status="not run", reason=reason, error=failure)
