"""`flagrelease card CELL`: print the card of the cell's last finished card stage, or, if the cell has not got that far,
a card of the results that it has. `flagrelease card --lint FILE`: list the defects of any card."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from flagrelease.cli.shared import options
from flagrelease.config.cell import Cell, select_one
from flagrelease.contract import results
from flagrelease.contract.handles import Done, Finished, StageResult
from flagrelease.errors import ConfigError, GateFailed
from flagrelease.run.project import Project, open_project
from flagrelease.stages import STAGES
from flagrelease.stages.card import run
from flagrelease.stages.card.checks.finding import Severity
from flagrelease.stages.card.checks.page import Page
from flagrelease.stages.card.files import README, RECORD, published
from flagrelease.stages.card.lint import lint
from flagrelease.stages.card.markdown import escape
from flagrelease.stages.card.record import NEEDED
from flagrelease.stages.card.stage import STAGE
from flagrelease.store.files import write_atomic
from flagrelease.store.ledger import Spent


def main(arguments: argparse.Namespace) -> int:
    if arguments.lint is not None:
        if arguments.output is not None:
            raise ConfigError("--lint writes no files", hint="leave out --output")
        return _lint(arguments.lint, as_json=arguments.json)
    project = open_project(options(arguments))
    cell = select_one(project.cells, arguments.cell)
    made = results.CARD.of(project.ledger.last_done(cell.id, STAGE.name))
    if made is None:
        data = so_far(project, cell)
    else:
        files = published(made)
        data = {name: project.evidence.read(file) for name, file in files.items()}
    data |= _yanked(project, cell, data)
    if arguments.output is not None:
        for name, content in data.items():
            write_atomic(arguments.output / name, content)
    text = data[README].decode()
    if arguments.json:
        digests = {name: f"sha256:{hashlib.sha256(content).hexdigest()}" for name, content in data.items()}
        print(json.dumps({"cell": cell.id, "card": text, "files": digests}, indent=2, ensure_ascii=False))
    elif arguments.output is not None:
        print(f"{', '.join(sorted(data))} in {arguments.output}")
    else:
        sys.stdout.write(text)
    return 0


def _yanked(project: Project, cell: Cell, data: Mapping[str, bytes]) -> dict[str, bytes]:
    """The card with a notice if its release was yanked. The published card stays as it is."""
    digest = hashlib.sha256(data[RECORD]).hexdigest()
    for tag, yank in project.yanks(cell.id).items():
        if tag.endswith(digest[:12]):
            notice = f"> **Yanked on {yank.at[:10]}: do not use this release.** {escape(yank.reason)}"
            head, title, rest = data[README].decode().partition("\n# ")
            return {README: f"{head}\n{notice}\n{title}{rest}".encode()}
    return {}


def _lint(file: Path, *, as_json: bool) -> int:
    """Print the defects of a card. The exit code is GateFailed's if one of them is an error."""
    try:
        text = file.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "it is not UTF-8 text"
        raise ConfigError(f"{file} cannot be read", why=why, hint="give the Markdown file of a card") from None
    beside = {target: b"" for target in Page(text, None, {}).targets if _is_file(file.parent / target)}
    found = lint(text, None, beside)
    counted = Counter(finding.severity for finding in found)
    errors, warnings = counted[Severity.ERROR], counted[Severity.WARNING]
    if as_json:
        listed = [asdict(finding) for finding in found]
        shown = {"file": str(file), "errors": errors, "warnings": warnings, "findings": listed}
        print(json.dumps(shown, indent=2, ensure_ascii=False))
    else:
        for finding in found:
            print(f"{file}:{finding.line}: {finding.severity}: {finding.text}")
        print(f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}")
    return GateFailed.exit_code if errors else 0


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False  # a link to a page can be longer than the name of a file


def so_far(project: Project, cell: Cell) -> dict[str, bytes]:
    """Card, record and chart of the finished stages. The card names undecided gates, and it cannot be published.

    Raises ConfigError if a stage that every card needs is not finished.
    """
    job = project.job(cell)
    finished: list[Done[StageResult]] = []
    unfinished: dict[str, str] = {}
    for earlier in STAGES[: STAGES.index(STAGE)]:
        done = project.ledger.last_done(cell.id, earlier.name)
        last = project.ledger.last(cell.id, earlier.name)
        result = earlier.result.of(done)
        if done is not None and result is not None:
            spent = done.spent or Spent(seconds=0.0)
            finished.append(Done(stage=earlier.name, key=done.key, result=result, spent=spent, at=done.at))
        elif last is not None and not earlier.skip(job):
            unfinished[earlier.name] = "failed" if last.state == "failed" else "was stopped before it was decided"
    known = Finished(finished)
    if missing := [needed.stage for needed in NEEDED if needed not in known]:
        hint = f"run `flagrelease run {cell.id}`"
        raise ConfigError(f"{cell.id} has no card yet", why=f"not finished: {', '.join(missing)}", hint=hint)
    return run.write(job, known, STAGE.code_version(job.templates), unfinished)[1]
