"""SLSA verification summary v1: the gates that the image passed, and the statements from which that follows. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from flagrelease import __version__
from flagrelease.stages.card.files import RECORD
from flagrelease.stages.publish.attestations.facts import Facts
from flagrelease.stages.publish.attestations.statement import PRODUCER, Statement, about, sha256
from flagrelease.store.digests import sha256_of

__all__ = ["TYPE", "summary"]

TYPE = "https://slsa.dev/verification_summary/v1"


def summary(facts: Facts, others: Sequence[Statement]) -> Statement:
    """The statement that names the record and all other statements by digest: who signs it signs all of them."""
    release = facts.release
    gates = ["SMOKE", *(f"ACCURACY_{row.benchmark}" for row in release.accuracy.benchmarks if row.verdict == "PASS")]
    gates += ["SPEED"] if release.speed is not None and release.speed.verdict == "PASS" else []
    waived = [
        {"gate": one.gate, "reason": one.reason, "owner": one.owner, "until": one.until} for one in release.waivers
    ]
    decided = {"profile": release.profile_name, **({"waivers": waived} if waived else {})}
    predicate = {
        "verifier": {"id": PRODUCER, "version": {"flagrelease": __version__}},
        "resourceUri": f"{release.image.repository}:{facts.tag}",
        "policy": {"uri": f"{PRODUCER}#verdict/rule", "annotations": decided},
        "inputAttestations": [
            {"uri": RECORD, "digest": sha256(sha256_of(facts.raw))},
            *({"uri": f"{other.name}.json", "digest": sha256(sha256_of(other.data))} for other in others),
        ],
        "verificationResult": "PASSED" if release.verdict == "PASS" else "FAILED",
        "verifiedLevels": [f"FLAGRELEASE_{gate.upper().replace('-', '_')}" for gate in gates],
        "slsaVersion": "1.0",
    }
    return about(facts, "verification-summary", TYPE, predicate)
