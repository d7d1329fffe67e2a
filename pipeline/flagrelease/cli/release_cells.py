"""Run cells through stages and show the progress."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial

from flagrelease.cli import summary
from flagrelease.cli.display import PlainBoard, announced, board
from flagrelease.cli.shared import show_error
from flagrelease.cli.summary import CellResult
from flagrelease.config.cell import Cell
from flagrelease.contract.context import Ports
from flagrelease.contract.job import Job
from flagrelease.contract.stage import AnyStage
from flagrelease.errors import ConfigError, FlagreleaseError, worst
from flagrelease.ports.docker import config_file
from flagrelease.run import cleanup
from flagrelease.run.board import Board
from flagrelease.run.cell_run import CellRun, Session, new_run_id
from flagrelease.run.executors.open import opened
from flagrelease.run.interrupt import UNBLOCK_SECONDS, Workers, all_within, run_stoppable
from flagrelease.run.plan import CellPlan, Choice
from flagrelease.run.preflight import check_cell, check_chip, check_machine
from flagrelease.run.project import Project, real_ports
from flagrelease.stages import REMEDY, STAGES
from flagrelease.stages.image import old_images
from flagrelease.store import locks
from flagrelease.store.machine import DeadRun, Registration, SharedMachine


def run_cells(
    project: Project,
    cells: Sequence[Cell],
    stages: tuple[AnyStage, ...],
    wanted: Choice,
    arguments: argparse.Namespace,
) -> list[CellResult]:
    """Run `cells` through `stages` and show the progress. Raises ConfigError if the only cell cannot run."""
    ports = real_ports(project.workspace, project.registry, project.runner)
    plans = [plan for plan in project.plan(cells, stages, wanted, ports.registry) if not plan.cell.excluded]
    if len(plans) == 1 and plans[0].blocked:
        raise ConfigError(f"{plans[0].cell.id} cannot run: {plans[0].blocked}", hint=plans[0].hint)
    results = [blocked_cell(plan) for plan in plans if plan.blocked]
    ready = [plan for plan in plans if not plan.blocked]
    if all(plan.idle for plan in ready):
        results += [summary.unchanged(plan, project.ledger, project.workspace) for plan in ready]
    else:
        results += _release(project, ready, stages, wanted, ports, arguments)
    return results


def show(results: Sequence[CellResult], excluded: Sequence[Cell], *, as_json: bool) -> int:
    """Print how cells ended, their errors last, and return the exit code."""
    code = worst(result.code for result in results)
    if as_json:
        print(json.dumps(summary.as_json(results, excluded, code), indent=2, ensure_ascii=False))
    else:
        print(summary.text(results, excluded))
        for result in results:
            if result.failure is not None and result.code:
                show_error(summary.as_error(result))
    sys.stdout.flush()
    return code


def _job(project: Project, cell: Cell, arguments: argparse.Namespace) -> Job:
    """The cell's job, with the release that a new one would replace."""
    reason = getattr(arguments, "reason", "")  # `tune` has none
    return replace(project.job(cell), previous=project.previous(cell.id), reason=reason)


def _release(
    project: Project,
    plans: Sequence[CellPlan],
    stages: tuple[AnyStage, ...],
    wanted: Choice,
    ports: Ports,
    arguments: argparse.Namespace,
) -> list[CellResult]:
    """Run the stages that are not up to date. Refuse a cell that another run holds or that cannot be evaluated, and run
    the others."""
    run_id = new_run_id()
    workers = Workers()
    results: list[CellResult] = []
    with ExitStack() as stack:
        free = []
        for plan in plans:
            try:
                check_cell(plan, project)
                path = project.workspace.locks / f"cell-{plan.cell.slug}.lock"
                stack.enter_context(locks.hold(path, plan.cell.id, run_id))
                free.append(plan)
            except FlagreleaseError as error:
                results.append(summary.refused(plan.cell, error))
        if not free:
            return results
        shown = PlainBoard() if arguments.json else board([p.cell.id for p in free], [s.name for s in stages])
        if project.runner == "docker" and (ignored := config_file.read().ignored()):
            shown.say(f"{ignored.line()}: {ignored.hint}")
        check_machine(free, project, ports)
        builds = project.runner == "docker" and any(
            (step.stage, step.action) == ("image", "run") for plan in free for step in plan.steps
        )
        cells = [plan.cell for plan in free]
        alive = stack.enter_context(_alive(run_id, cells, project, ports, shown, builds=builds))
        free, refused = _on_their_chips(free, project, ports, run_id, shown)
        results += refused
        if not free:
            alive.gone = True
            return results
        session = _session(project, stages, wanted, ports, run_id, shown, workers, _rounds(project, arguments))
        runs = [CellRun(session, _job(project, plan.cell, arguments)) for plan in free]
        start = time.monotonic()
        with shown:
            cleaned = _execute(runs, arguments.engine, project, run_id, shown, workers, _unblock(runs, ports))
        if workers.stopping.is_set():
            alive.gone = cleaned
        else:
            red = any(outcome.red for run in runs for outcome in run.outcomes)
            alive.gone = not red or _nothing_left(run_id, project, ports)
        return results + [summary.finished(run, time.monotonic() - start) for run in runs]


def _on_their_chips(
    plans: Sequence[CellPlan], project: Project, ports: Ports, run_id: str, shown: Board
) -> tuple[list[CellPlan], list[CellResult]]:
    """The plans whose chip this machine has, as far as that can be asked now, and the refusals of the others."""
    fitting, refused = [], []
    for plan in plans:
        try:
            check_chip(plan, project, ports, run_id, shown.say)
            fitting.append(plan)
        except FlagreleaseError as error:
            refused.append(summary.refused(plan.cell, error))
    return fitting, refused


_ANSWER_SECONDS = 2.0
"""For an engine to answer at all, when a run is stopped."""


@contextmanager
def _alive(
    run_id: str, cells: Sequence[Cell], project: Project, ports: Ports, shown: Board, *, builds: bool
) -> Iterator[Registration]:
    """Remove what dead runs left, and be known as alive for the block, so that no other run removes what is ours."""
    machine, names = SharedMachine.here(), " ".join(cell.id for cell in cells)
    cleanup.earlier_boots(ports.runner, shown.say)
    cleanup.dead_runs(machine, ports.runner, shown.say)
    cleanup.leftovers(cells, project.workspace, ports)
    if builds and machine.alone():
        old_images.remove(ports.docker, project.ledger, shown.say)
    where = {"workspace": str(project.workspace.root), "executor": ports.runner.address}
    with machine.running(run_id, {"cells": names, **where}) as entry:
        yield entry


def _nothing_left(run_id: str, project: Project, ports: Ports) -> bool:
    """Whether a run that did not end well has left nothing, for example in an engine that does not answer."""
    own = DeadRun(
        id=run_id, mine=True, here=True, cells=(), workspace=project.workspace.root, executor=ports.runner.address
    )
    with suppress(FlagreleaseError):
        return all_within(UNBLOCK_SECONDS, [partial(ports.runner.reap_run, own)])
    return False


def _rounds(project: Project, arguments: argparse.Namespace) -> int:
    return project.matrix.defaults.rounds if arguments.rounds is None else int(arguments.rounds)


def _session(
    project: Project,
    stages: tuple[AnyStage, ...],
    wanted: Choice,
    ports: Ports,
    run_id: str,
    shown: Board,
    workers: Workers,
    rounds: int,
) -> Session:
    return Session(
        run_id=run_id,
        workspace=project.workspace,
        ledger=project.ledger,
        evidence=project.evidence,
        ports=ports,
        stages=stages,
        choice=wanted,
        board=shown,
        workers=workers,
        remedy=replace(REMEDY, rounds=rounds) if stages == STAGES else None,
    )


def _execute(
    runs: Sequence[CellRun],
    executor_name: str,
    project: Project,
    run_id: str,
    shown: Board,
    workers: Workers,
    unblock: Callable[[], bool],
) -> bool:
    """Run the cells; after a stop, return whether everything of theirs was taken away."""

    def work() -> None:
        with ExitStack() as stack:
            starting = announced(shown.say, "starting Prefect", "`--engine inline` runs without it")
            with starting if executor_name == "prefect" else nullcontext():
                executor = stack.enter_context(opened(executor_name, project.workspace.prefect, run_id))
            executor.execute(runs)

    run_stoppable(work, workers, unblock)
    if not workers.stopping.is_set():
        return False
    for run in runs:
        run.abandon()

    def clean() -> None:
        cleanup.leftovers([run.cell for run in runs], project.workspace, runs[0].session.ports, own=True)

    seconds = UNBLOCK_SECONDS if _answers(runs[0].session.ports) else _ANSWER_SECONDS
    with suppress(FlagreleaseError):  # without a Docker engine, no container is left
        if all_within(seconds, [clean]):
            return True
        shown.say(f"cleaning up takes more than {seconds:.0f} s: the next run removes what is left")
    return False


def _answers(ports: Ports) -> bool:
    """Whether what serves models answers, or says at once that it does not run; a hung engine does neither."""
    with suppress(FlagreleaseError):
        return all_within(_ANSWER_SECONDS, [ports.runner.version])
    return True


def _unblock(runs: Sequence[CellRun], ports: Ports) -> Callable[[], bool]:
    from flagrelease.ports import command

    def reap(run: CellRun) -> None:
        with suppress(FlagreleaseError):  # without a Docker engine, no container blocks
            ports.runner.reap(run.cell.id, run.session.workspace.root)

    def unblock() -> bool:
        command.end_all()
        return _answers(ports) and all_within(UNBLOCK_SECONDS, [partial(reap, run) for run in runs])

    return unblock


def blocked_cell(plan: CellPlan) -> CellResult:
    """The result of a cell that cannot be planned."""
    return summary.refused(plan.cell, ConfigError(plan.blocked, hint=plan.hint))
