"""Decide which stages run, and why. Pure: earlier results are read through `Known`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from flagrelease.config.cell import Cell
from flagrelease.contract.job import Job
from flagrelease.contract.stage import AnyStage, Key, keys
from flagrelease.contract.units import time_text
from flagrelease.errors import ConfigError, FlagreleaseError, did_you_mean
from flagrelease.store.ledger import Entry
from flagrelease.store.parts import Change, Keep, changes, in_line

_NOT_ONLY = "not in --only"

Action = Literal["run", "reuse", "skip"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """The planned action for one stage of one cell."""

    stage: str
    action: Action
    reason: str
    key: Key | None = None
    """None for a stage of a cell that is excluded or blocked."""
    entry: Entry | None = None
    """The earlier result that is reused."""
    changed: tuple[Change, ...] = ()
    """The differences from the last attempt, if that had another key."""


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """The steps of one cell."""

    cell: Cell
    steps: tuple[Step, ...]
    blocked: str = ""
    """Why the cell cannot be planned, such as entries that are not locked; empty if it can."""
    hint: str = ""
    """How to unblock it."""

    @property
    def idle(self) -> bool:
        """Whether nothing of this cell would run."""
        return not self.blocked and all(step.action != "run" for step in self.steps)

    @property
    def state(self) -> Literal["run", "blocked", "unchanged", "excluded"]:
        """What a run would do with the cell."""
        if self.cell.excluded:
            return "excluded"
        return "blocked" if self.blocked else "unchanged" if self.idle else "run"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The user's choice of stages, by name."""

    only: frozenset[str] = frozenset()
    """Run no other stages; empty: all may run."""
    force: frozenset[str] = frozenset()
    """Run these even if they are up to date."""


def running_by_chip(plans: Iterable[CellPlan]) -> dict[str, list[CellPlan]]:
    """The cells of which something would run, by the name of their chip."""
    found: dict[str, list[CellPlan]] = {}
    for plan in plans:
        if plan.state == "run":
            found.setdefault(plan.cell.chip_name, []).append(plan)
    return found


class Known(Protocol):
    """The results of earlier runs."""

    def done(self, cell: str, stage: str, key: str) -> Entry | None: ...

    def last(self, cell: str, stage: str) -> Entry | None: ...

    def kept(self, cell: str, stage: str, key: str) -> Keep | None: ...

    def lost(self, stage: AnyStage, entry: Entry) -> str:
        """Why the entry's result is no longer usable, in a few words; empty if it is."""
        ...


def choice(stages: Sequence[AnyStage], only: Collection[str], force: Collection[str]) -> Choice:
    """Validate stage names from the command line. Raises ConfigError for an unknown one, with a suggestion, and for a
    forced one that --only leaves out."""
    names = [stage.name for stage in stages]
    check_stages((*only, *force), names)
    if outside := [name for name in force if only and name not in only]:
        raise ConfigError(
            f"--force {outside[0]} contradicts --only {' --only '.join(only)}",
            why="--only leaves that stage out",
            hint=f"add --only {outside[0]}, or remove --force {outside[0]}",
        )
    return Choice(only=frozenset(only), force=frozenset(force))


def check_stages(chosen: Iterable[str], known: Collection[str]) -> None:
    """Raises ConfigError for a name that is not known, with a suggestion."""
    for name in chosen:
        if name not in known:
            raise ConfigError(f"unknown stage {name!r}", hint=did_you_mean(name, known))


def plan_cell(job: Job, stages: tuple[AnyStage, ...], known: Known, wanted: Choice) -> CellPlan:
    """The steps of one cell, in order."""
    if job.cell.excluded:
        reason = f"excluded: {job.cell.excluded}"
        return CellPlan(cell=job.cell, steps=tuple(Step(stage=s.name, action="skip", reason=reason) for s in stages))
    try:
        stage_keys = keys(job, stages, known)
    except FlagreleaseError as error:
        return unplannable(job, stages) or blocked(job.cell, [s.name for s in stages], error.line(), error.hint)
    steps: dict[str, Step] = {}
    for stage in stages:
        steps[stage.name] = decide(job, stage, stage_keys[stage.name], steps, known, wanted)
    return CellPlan(cell=job.cell, steps=tuple(steps.values()))


def unplannable(job: Job, stages: Sequence[AnyStage]) -> CellPlan | None:
    """The plan of a cell that lacks inputs, such as entries of matrix.lock; None if it has them. Computes no key."""
    problems = _problems(job, stages)
    if not problems:
        return None
    hints = set(problems.values())
    needed = [hint for hint in dict.fromkeys(problems.values()) if not any(hint in more for more in hints - {hint})]
    return blocked(job.cell, [stage.name for stage in stages], "; ".join(problems), "; ".join(needed))


def blocked(cell: Cell, stages: Iterable[str], why: str, hint: str) -> CellPlan:
    """The plan of a cell that cannot run."""
    steps = tuple(Step(stage=stage, action="skip", reason=f"blocked: {why}") for stage in stages)
    return CellPlan(cell=cell, steps=steps, blocked=why, hint=hint)


def _problems(job: Job, stages: Sequence[AnyStage]) -> dict[str, str]:
    """Every error that prevents planning, mapped to its hint, so that all are reported at once."""
    problems: dict[str, str] = {}
    for stage in stages:
        try:
            if not stage.skip(job):
                stage.inputs(job)
        except FlagreleaseError as error:
            problems[error.line()] = error.hint
    return problems


def decide(job: Job, stage: AnyStage, key: Key, before: Mapping[str, Step], known: Known, wanted: Choice) -> Step:
    """Plan one stage, given the steps before it. Raises ConfigError if --only leaves out a stage that it reads."""

    changed: tuple[Change, ...] = ()

    def step(action: Action, reason: str, entry: Entry | None = None) -> Step:
        return Step(stage=stage.name, action=action, reason=reason, key=key, entry=entry, changed=changed)

    if skipped := stage.skip(job):
        return step("skip", skipped)
    entry, last = known.done(job.cell.id, stage.name, key.counts), known.last(job.cell.id, stage.name)
    if entry is None and last is not None:
        changed = since(last, key)
    if wanted.only and stage.name not in wanted.only:
        if entry is not None and not stale(stage, entry, before):
            return step("reuse", "not in --only; its earlier result is reused", entry)
        return step("skip", _NOT_ONLY)
    absent = [name for name in stage.read_names if before[name].reason == _NOT_ONLY]
    if absent:
        has = "have" if absent[1:] else "has"
        raise ConfigError(
            f"{job.cell.id}: {stage.name} reads {_listed(absent)}, which {has} no result yet",
            hint=f"run without --only, or add --only {' --only '.join(absent)}",
        )
    if stage.name in wanted.force:
        return step("run", "forced")
    running = [name for name in stage.read_names if before[name].action == "run"]
    if running:
        return step("run", f"{_listed(running)} will run")
    if entry is None:
        return step("run", _why_no_entry(last, key, changed))
    if outdated := stale(stage, entry, before):
        return step("run", outdated)
    if lost := known.lost(stage, entry):
        return step("run", lost)
    return step("reuse", _why_reused(entry, key), entry)


def _listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([part for part in (", ".join(names[:-1]), names[-1]) if part])


def stale(stage: AnyStage, entry: Entry, before: Mapping[str, Step]) -> str:
    """Which of the results that the entry's stage read is no longer the current one; empty if none."""
    for name in stage.read_names:
        read = before[name].entry
        if read is not None and entry.reads.get(name) != read.result_digest:
            return f"{name} has a newer result"
    return ""


def since(last: Entry, key: Key) -> tuple[Change, ...]:
    """The differences between an earlier attempt and the current key; empty if they were not recorded."""
    return () if last.parts is None or last.key == key.key else changes(last.parts, key.parts)


def _why_reused(entry: Entry, key: Key) -> str:
    if key.kept is not None:
        return f"kept: {key.kept.reason} (by {key.kept.by})"
    return f"unchanged since {time_text(entry.at)}"


def _why_no_entry(last: Entry | None, key: Key, changed: tuple[Change, ...]) -> str:
    if last is None:
        return "never run"
    if last.key != key.key:
        if last.parts is None:
            return "its inputs have changed; which of them was not recorded at the time"
        return f"changed: {in_line(changed)}" if changed else "its inputs have changed"
    if last.state == "failed":
        return f"failed before: {last.error.what}" if last.error else "failed before"
    return "was interrupted"


def as_json(plans: Sequence[CellPlan]) -> dict[str, Any]:
    """The output of `plan --json`."""
    return {
        "cells": [
            {
                "cell": plan.cell.id,
                "stages": [_step_as_json(step) for step in plan.steps],
            }
            for plan in plans
        ]
    }


def _step_as_json(step: Step) -> dict[str, Any]:
    changed = [str(change) for change in step.changed]
    row = {"stage": step.stage, "action": step.action, "reason": step.reason}
    return {**row, "changed": changed} if changed else row
