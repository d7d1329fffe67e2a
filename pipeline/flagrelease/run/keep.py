"""Keep a stage's earlier result although its code has changed."""

from __future__ import annotations

from collections.abc import Sequence

from flagrelease.contract.stage import AnyStage, Key
from flagrelease.errors import ConfigError
from flagrelease.redact import redact
from flagrelease.run.plan import CellPlan, Known, Step, stale
from flagrelease.store.ledger import Entry
from flagrelease.store.parts import Change, Keep, changes, in_line


def keep(
    plan: CellPlan, stage: AnyStage, earlier: Sequence[Entry], known: Known, *, reason: str, by: str, at: str
) -> tuple[Keep, tuple[Change, ...]]:
    """Decide to keep the newest of the `earlier` results (newest first) that differs by code only.

    Returns the decision and the code that has changed. Raises ConfigError if there is nothing to keep, or if anything
    other than code has changed.
    """
    where = f"{plan.cell.id} {stage.name}"
    if not reason.strip():
        raise ConfigError("--reason is empty", hint="say why the changed code cannot change the result")
    if plan.blocked:
        raise ConfigError(f"{where} cannot be kept: {plan.blocked}", hint=plan.hint)
    steps = {step.stage: step for step in plan.steps}
    key = _open(steps[stage.name], where)
    _refuse_failed(known.last(plan.cell.id, stage.name), key, where, plan.cell.id)
    if not earlier:
        raise ConfigError(f"{where} has no result to keep", hint=f"run `flagrelease run {plan.cell.id}`")
    entry, changed = _by_code_alone(earlier, key, where, plan.cell.id)
    _check_usable(stage, entry, steps, known, where, plan.cell.id)
    decision = Keep(
        stage=stage.name, from_key=entry.key, to_key=key.key, reason=redact(reason.strip()), by=redact(by), at=at
    )
    return decision, changed


def _open(step: Step, where: str) -> Key:
    """The stage's current key, for which it has no result yet."""
    if step.action == "skip" or step.key is None:
        raise ConfigError(f"{where} is skipped", why=step.reason)
    if step.key.kept is not None:
        raise ConfigError(f"{where} is already kept", why=f"{step.key.kept.reason} (by {step.key.kept.by})")
    if step.entry is not None or step.action == "reuse":
        raise ConfigError(f"{where} has nothing to keep", why=step.reason, hint="its result is reused anyway")
    return step.key


def _refuse_failed(last: Entry | None, key: Key, where: str, cell: str) -> None:
    """Refuse if the changed code has already failed."""
    if last is not None and last.state == "failed" and last.key == key.key:
        raise ConfigError(
            f"{where} cannot be kept: it failed with the changed code",
            why=last.error.what if last.error else "",
            hint=f"`flagrelease explain {cell}` shows the failure",
        )


def _by_code_alone(earlier: Sequence[Entry], key: Key, where: str, cell: str) -> tuple[Entry, tuple[Change, ...]]:
    for entry in earlier:
        changed = () if entry.parts is None else changes(entry.parts, key.parts)
        if changed and all(change.kind == "code" for change in changed):
            return entry, changed
    newest = earlier[0]
    if newest.key == key.key:
        raise ConfigError(
            f"{where} has nothing to keep",
            why="its key is unchanged",
            hint=f"`flagrelease plan {cell}` shows why it runs",
        )
    if newest.parts is None:
        raise ConfigError(
            f"{where} cannot be kept",
            why="which of its inputs have changed is unknown: they were not recorded at the time",
            hint=f"run `flagrelease run {cell}` once",
        )
    if not changes(newest.parts, key.parts):
        raise ConfigError(
            f"{where} cannot be kept",
            why="its key was computed by another version of flagrelease",
            hint=f"run `flagrelease run {cell}` once",
        )
    other = tuple(change for change in changes(newest.parts, key.parts) if change.kind != "code")
    read = [change.name for change in other if change.kind == "result"]
    raise ConfigError(
        f"{where} cannot be kept: more than code has changed",
        why=in_line(other),
        hint=f"keep {read[0]} first, if only its code has changed" if len(read) == len(other) and read
        else f"revert the change, or run `flagrelease run {cell}`",
    )  # fmt: skip


def _check_usable(stage: AnyStage, entry: Entry, steps: dict[str, Step], known: Known, where: str, cell: str) -> None:
    """Refuse a result that would run again in spite of the decision: lost, or based on results that are not current."""
    for name in stage.read_names:
        if steps[name].action == "run":
            raise ConfigError(
                f"{where} cannot be kept: {name} will run", why=steps[name].reason, hint=f"keep {name} first"
            )
    if unusable := stale(stage, entry, steps) or known.lost(stage, entry):
        raise ConfigError(f"{where} cannot be kept: {unusable}", hint=f"run `flagrelease run {cell}`")
