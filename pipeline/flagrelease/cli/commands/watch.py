"""`flagrelease watch`: check whether published releases are still there as they were published."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import msgspec

from flagrelease.cli.shared import options
from flagrelease.cli.text_table import aligned, terminal_width, wrapped
from flagrelease.contract.units import minute
from flagrelease.errors import GateFailed, Inconclusive
from flagrelease.ports.clock import SystemClock
from flagrelease.releases import rot
from flagrelease.releases.rot import WATCH, Check, Finding, Rot, State
from flagrelease.run.cell_run import new_run_id
from flagrelease.run.matrix_state import CellLog
from flagrelease.run.project import Project, open_project
from flagrelease.store.ledger import Entry, process_id
from flagrelease.watching.published import logs_of, subjects
from flagrelease.watching.subject import Look, Subject

_SECONDS, _SECONDS_DEEP = 60, 3600


@dataclass(frozen=True, kw_only=True)
class Watched:
    """One release after a watch."""

    subject: Subject
    """The release."""
    checks: Sequence[Check]
    """What was looked at."""
    before: tuple[Finding, ...]
    """What an earlier watch had found."""
    findings: tuple[Finding, ...]
    """What is known now."""

    @property
    def state(self) -> State:
        """`rotten` also if something was found earlier and could not be checked now."""
        if self.findings:
            return State.ROTTEN
        return State.NOT_CHECKED if any(each.silent for each in self.checks) else State.HOLDS


def main(arguments: argparse.Namespace) -> int:
    project = open_project(options(arguments))
    if arguments.key is not None:
        from flagrelease.ports import dsse

        dsse.read_public_key(arguments.key)
    logs = logs_of(project, arguments.cells)
    chosen = [(log, each) for log in logs.values() for each in subjects(project, log, every=arguments.all)]
    look = Look(key=arguments.key, deep=arguments.deep)
    seconds = arguments.seconds or (_SECONDS_DEEP if arguments.deep else _SECONDS)
    checks = _watch(project, [each for _, each in chosen], look, seconds)
    at = SystemClock().now().isoformat(timespec="seconds")
    watched = [_watched(log, each, made, at) for (log, each), made in zip(chosen, checks, strict=True)]
    for each in watched:
        _keep(project, each, at)
    print(_json(watched, at) if arguments.json else _text(watched))
    return exit_code(watched)


def exit_code(watched: Sequence[Watched]) -> int:
    """4 if something is no longer as published; 5 if nothing is, but a place did not answer; else 0."""
    states = {each.state for each in watched}
    if State.ROTTEN in states:
        return GateFailed.exit_code
    return Inconclusive.exit_code if State.NOT_CHECKED in states else 0


def _watch(project: Project, chosen: Sequence[Subject], look: Look, seconds: float) -> list[list[Check]]:
    from flagrelease.ports.credentials import Logins
    from flagrelease.ports.registry import OciRegistry
    from flagrelease.watching.registry import patience
    from flagrelease.watching.watch import watch

    logins = Logins(own=project.registry.partition("/")[0])

    def own(_host: str) -> OciRegistry:
        return OciRegistry(known=logins, backoff=patience(look), seconds=look.patience)

    return watch(chosen, project.matrix.targets, own, look, seconds=seconds)


def _watched(log: CellLog, subject: Subject, checks: Sequence[Check], at: str) -> Watched:
    known = rot.standing(log.rots).get(subject.tag)
    before = () if known is None else known.findings
    return Watched(subject=subject, checks=checks, before=before, findings=rot.found(checks, before, at))


def _keep(project: Project, watched: Watched, at: str) -> None:
    """Write what changed to the ledger; a watch that finds what is known writes nothing."""
    if not rot.changed(watched.before, watched.findings):
        return
    subject = watched.subject
    found = Rot(tag=subject.tag, image=subject.image, at=at, findings=watched.findings)
    entry = Entry(
        at=at,
        run=new_run_id(),
        cell=subject.cell,
        stage=WATCH,
        state="done",
        key=subject.tag,
        process=process_id(),
        result=msgspec.to_builtins(found),
    )
    project.ledger.append(entry)


def _json(watched: Sequence[Watched], at: str) -> str:
    releases = [
        {
            "cell": each.subject.cell,
            "tag": each.subject.tag,
            "image": each.subject.image,
            "state": each.state.value,
            "findings": [asdict(finding) for finding in each.findings],
            "new": [asdict(finding) for finding in _new(each)],
            "checks": [asdict(check) for check in each.checks],
        }
        for each in watched
    ]
    return json.dumps({"at": at, "exit_code": exit_code(watched), "releases": releases}, indent=2, ensure_ascii=False)


def _new(watched: Watched) -> list[Finding]:
    known = {(each.check, each.place) for each in watched.before}
    return [each for each in watched.findings if (each.check, each.place) not in known]


def _text(watched: Sequence[Watched]) -> str:
    rows, hints = [], []
    for each in watched:
        fresh, asked = _new(each), {(check.check, check.place) for check in each.checks if check.state is State.ROTTEN}
        for found in each.findings:
            again = "" if (found.check, found.place) in asked else "; not checked now"
            since = "new" if found in fresh else f"since {minute(found.since)}"
            rows.append([each.subject.cell, found.check, found.place, "✗", f"{found.line} ({since}{again})"])
            hints.append(f"{each.subject.cell}, {found.check}: {found.hint}")
        open_ = [check for check in each.checks if check.state is State.NOT_CHECKED]
        rows += [[each.subject.cell, check.check, check.place, "–", check.what] for check in open_]
    table = aligned(("cell", "check", "place", "", "what"), rows, width=terminal_width()) if rows else ""
    advice = "\n".join(f"  → {hint}" for hint in dict.fromkeys(hints))
    return "\n\n".join(part for part in (table, advice, wrapped(_total(watched), terminal_width())) if part)


def _total(watched: Sequence[Watched]) -> str:
    counted: Mapping[State, int] = {state: sum(each.state is state for each in watched) for state in State}
    checks = [check.state for each in watched for check in each.checks]
    releases = f"{len(watched)} release{'s' * (len(watched) != 1)}"
    parts = [
        f"{counted[State.HOLDS]} as published",
        f"{counted[State.ROTTEN]} not as published",
        f"{counted[State.NOT_CHECKED]} with a place that did not answer",
    ]
    made = f"{checks.count(State.HOLDS)} of {len(checks)} checks hold, {checks.count(State.NOT_CHECKED)} not made"
    return f"{releases}: {', '.join(parts)}; {made}"
