"""Statements of in-toto (Statement v1): their form, and the parts that several predicates share."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flagrelease.stages.publish.attestations.facts import Facts, paths
from flagrelease.store.evidence import Evidence

__all__ = ["FORMAT", "PRODUCER", "SHA256", "Statement", "about", "digest_of", "evidence", "sha256"]

FORMAT = "https://in-toto.io/Statement/v1"
PRODUCER = "pkg:pypi/flagrelease"
"""Names this program where a predicate wants to know who made it."""

SHA256 = re.compile(r"(sha256:)?[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement about the image of a release."""

    name: str
    """Its file name, without the suffix."""
    predicate_type: str
    """The URI that says how the predicate is read."""
    content: Mapping[str, Any]
    """The whole statement."""

    @property
    def data(self) -> bytes:
        """Its bytes: sorted keys and no time, so that publishing again gives the same artifact."""
        return json.dumps(self.content, indent=1, sort_keys=True).encode() + b"\n"


def about(facts: Facts, name: str, predicate_type: str, predicate: Mapping[str, Any]) -> Statement:
    """A statement whose subject is the image."""
    image = facts.release.image
    content = {
        "_type": FORMAT,
        "subject": [{"name": image.repository, "digest": sha256(image.digest)}],
        "predicateType": predicate_type,
        "predicate": predicate,
    }
    return Statement(name=name, predicate_type=predicate_type, content=content)


def sha256(digest: str) -> dict[str, str]:
    """A set of digests (DigestSet) from `sha256:HEX` or HEX."""
    return {"sha256": digest.removeprefix("sha256:")}


def digest_of(text: str) -> dict[str, dict[str, str]]:
    """The field `digest` for a sha256; nothing if `text` is not one, as that of questions which a platform keeps."""
    return {"digest": sha256(text)} if SHA256.fullmatch(text) else {}


def evidence(stage: str, files: Sequence[Evidence]) -> list[dict[str, Any]]:
    """Descriptors of a stage's files in the release folder, by path."""
    found = sorted(paths(stage, tuple(files)).items())
    return [{"name": path, "digest": sha256(file.sha256)} for path, file in found]
