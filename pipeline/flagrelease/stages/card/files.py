"""The files that the card stage reads and writes, by name."""

from __future__ import annotations

from flagrelease.contract import results
from flagrelease.store.evidence import Evidence

TEMPLATE = "card.md.j2"
TEMPLATE_ZH = "card.zh.md.j2"
README = "README.md"
README_ZH = "README_zh.md"
"""The card in Chinese."""
RECORD = "release.json"


def published(made: results.Card) -> dict[str, Evidence]:
    """The card, its images and the record, by published file name."""
    return {evidence.name: evidence for evidence in (made.readme, *made.images, *made.evidence)}
