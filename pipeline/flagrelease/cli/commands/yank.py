"""`flagrelease yank CELL`: say that a published release is not to be used, and why.

Nothing published is changed, except that `latest` names the newest release that is not yanked.
"""

from __future__ import annotations

import argparse
import json

import msgspec

from flagrelease.cli.shared import options, user
from flagrelease.errors import ConfigError, did_you_mean
from flagrelease.ports.clock import SystemClock
from flagrelease.redact import redact
from flagrelease.releases.yanks import YANK, Yank
from flagrelease.run.cell_run import new_run_id
from flagrelease.run.cell_state import image_of
from flagrelease.run.project import open_project
from flagrelease.store.ledger import Entry, process_id


def main(arguments: argparse.Namespace) -> int:
    project = open_project(options(arguments))
    cell = arguments.cell
    if not arguments.reason.strip():
        raise ConfigError("--reason is empty", hint="say why the release is not to be used, or may be used again")
    published = project.publications(cell)
    if not published:
        known = sorted({entry.cell for entry in project.ledger.entries()} | {each.id for each in project.cells})
        hint = did_you_mean(cell, known) if cell not in known else ""
        raise ConfigError(f"{cell} has no published release", hint=hint)
    tag = arguments.tag or next(reversed(published))
    if tag not in published:
        raise ConfigError(f"{cell} has no release {tag!r}", hint=did_you_mean(tag, list(published)))
    yanked = tag in project.yanks(cell)
    if yanked != arguments.undo:
        raise ConfigError(f"{tag} is {'already' if yanked else 'not'} yanked")
    result = published[tag]
    yank = Yank(
        tag=tag,
        image=image_of(result),
        reason=redact(arguments.reason.strip()),
        by=redact(user()),
        at=SystemClock().now().isoformat(timespec="seconds"),
        undone=arguments.undo,
    )
    entry = Entry(
        at=yank.at,
        run=new_run_id(),
        cell=cell,
        stage=YANK,
        state="done",
        key=tag,
        process=process_id(),
        result=msgspec.to_builtins(yank),
    )
    project.ledger.append(entry)
    from flagrelease.run.latest import point  # imports the registry's client, which the refusals above do not need

    pointed = point(project, cell)
    if arguments.json:
        latest = msgspec.to_builtins(pointed)
        print(
            json.dumps(
                {"cell": cell, "yank": msgspec.to_builtins(yank), "latest": latest}, indent=2, ensure_ascii=False
            )
        )
        return 0
    print(f"{cell} {tag} is no longer yanked" if yank.undone else f"{cell} {tag} is yanked; its tag and its image stay")
    for each in pointed:
        print(f"{each.place} names {each.tag} now" if each.moved else f"{each.place} was not moved: {each.why}")
        if each.hint:
            print(f"  → {each.hint}")
    if set(project.publications(cell)) <= set(project.yanks(cell)):
        print("latest stays where it is: the cell has no other release")
    return 0
