"""All statements about a release."""

from __future__ import annotations

import json

from flagrelease.stages.publish.attestations.facts import Facts
from flagrelease.stages.publish.attestations.provenance import provenance
from flagrelease.stages.publish.attestations.sbom import sbom
from flagrelease.stages.publish.attestations.statement import PRODUCER, Statement, about
from flagrelease.stages.publish.attestations.summary import summary
from flagrelease.stages.publish.attestations.test_results import test_results

__all__ = ["RECORD_TYPE", "statements"]

RECORD_TYPE = f"{PRODUCER}#release-record/v1"


def statements(facts: Facts) -> tuple[Statement, ...]:
    """The statements, the summary last: it names the others."""
    record = about(facts, "release-record", RECORD_TYPE, json.loads(facts.raw))
    others = (record, sbom(facts), provenance(facts), *test_results(facts))
    return (*others, summary(facts, others))
