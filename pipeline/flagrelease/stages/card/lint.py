"""Find the defects of a card: those of any card, and where it differs from its record. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from flagrelease.errors import GateFailed
from flagrelease.stages.card import facts
from flagrelease.stages.card.checks import commands, markdown, scores
from flagrelease.stages.card.checks import record as equality
from flagrelease.stages.card.checks.finding import Finding
from flagrelease.stages.card.checks.page import Page
from flagrelease.stages.card.record import Record

__all__ = ["CHECKS", "RECORD_CHECKS", "Finding", "check", "findings", "lint"]

CHECKS: Mapping[str, Callable[[Page], Iterator[Finding]]] = {
    "front matter": markdown.front_matter,
    "hub metadata": markdown.hub_metadata,
    "headings": markdown.headings,
    "code blocks": markdown.code,
    "tables": markdown.tables,
    "scores": scores.scores,
    "image references": commands.images,
    "download and served folder": commands.folders,
    "container": commands.container,
    "client code": commands.client,
    "links": markdown.links,
    "wording": markdown.wording,
}
"""Checks of any card."""
RECORD_CHECKS: Mapping[str, Callable[[Page, Record], Iterator[Finding]]] = {
    "front matter equals the record": equality.front_matter,
    "sections": equality.sections,
    "pictures": equality.pictures,
    "scores equal the record": equality.scores,
    "speeds equal the record": equality.speed,
    "operators equal the record": equality.operators,
    "digests and tags equal the record": equality.references,
    "commands were run": equality.commands,
    "one path from download to service": equality.paths,
}
"""Further checks of a card whose record is known."""


def lint(text: str, record: Record | None, images: Mapping[str, bytes]) -> list[Finding]:
    """All defects of the card `text`, by line. `images` are the files next to it, by name; `record` is None for a card
    from elsewhere."""
    page = Page(text if record is None else facts.as_evaluated(text, record), record, images)
    found = set(findings(page, [*CHECKS, *RECORD_CHECKS]))
    return sorted(found, key=lambda finding: (finding.line, finding.text))


def findings(page: Page, names: Iterable[str]) -> Iterator[Finding]:
    """What the named checks find; without a record, those that need one find nothing."""
    for name in names:
        if name in CHECKS:
            found = CHECKS[name](page)
        else:
            found = RECORD_CHECKS[name](page, page.record) if page.record is not None else iter(())
        yield from (replace(finding, check=name) for finding in found)


def check(text: str, record: Record, images: Mapping[str, bytes], where: str) -> tuple[str, ...]:
    """The names of the checks that the card passed; `where` is its file. Raises GateFailed with all findings."""
    found = lint(text, record, images)
    if found:
        raise GateFailed(
            f"the card of {record.cell} has {len(found)} defect{'s' if len(found) > 1 else ''}",
            why=f"line {found[0].line}: {found[0].text}",
            hint="fix templates/card.md.j2 or the entry in matrix.yaml that the text comes from, and run again",
            detail="\n".join(f"{where}:{finding.line}: {finding.text}" for finding in found),
        )
    return (*CHECKS, *RECORD_CHECKS)
