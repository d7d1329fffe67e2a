"""Attach a release to its image: all files of the release folder, and a summary of its verification (in-toto)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from flagrelease import __version__
from flagrelease.ports.registry.referrers import VERSION, Artifact, File
from flagrelease.stages.card.files import RECORD
from flagrelease.stages.card.record import Record
from flagrelease.store.digests import sha256_of

RELEASE = "application/vnd.flagrelease.release.v1"
"""The media type of a release folder as an artifact."""
STATEMENT = "application/vnd.in-toto+json"
PREDICATE = "https://slsa.dev/verification_summary/v1"
_TYPES = {".json": "application/json", ".jsonl": "application/jsonl", ".md": "text/markdown", ".png": "image/png"}


def artifacts(release: Record, tag: str, sources: Mapping[str, Path]) -> tuple[Artifact, Artifact]:
    """The release folder with `sources`, and the summary of its verification. The same release gives the same bytes."""
    files = tuple(_file(name, path.read_bytes()) for name, path in sorted(sources.items()))
    record = next(file.data for file in files if file.name == RECORD)
    statement = json.dumps(summary(release, tag, sha256_of(record)), indent=1, sort_keys=True).encode() + b"\n"
    return (
        Artifact(kind=RELEASE, files=files, annotations={VERSION: tag}),
        Artifact(
            kind=STATEMENT,
            files=(File(name="verification-summary.json", media_type=STATEMENT, data=statement),),
            annotations={VERSION: tag, "in-toto.io/predicate-type": PREDICATE},
        ),
    )


def summary(release: Record, tag: str, record_sha256: str) -> dict[str, Any]:
    """An in-toto statement: which image passed which gates, and the record from which that follows. It has no time, so
    that publishing again gives the same artifact."""
    image, accuracy = release.image, release.accuracy
    gates = ["SMOKE", *(f"ACCURACY_{row.benchmark}" for row in accuracy.benchmarks if row.verdict == "PASS")]
    gates += ["SPEED"] if release.speed is not None and release.speed.verdict == "PASS" else []
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": image.repository, "digest": {"sha256": image.digest.removeprefix("sha256:")}}],
        "predicateType": PREDICATE,
        "predicate": {
            "verifier": {"id": "pkg:pypi/flagrelease", "version": {"flagrelease": __version__}},
            "resourceUri": f"{image.repository}:{tag}",
            "policy": {"uri": "pkg:pypi/flagrelease#verdict/rule", "annotations": {"profile": release.profile_name}},
            "inputAttestations": [{"uri": RECORD, "digest": {"sha256": record_sha256}}],
            "verificationResult": "PASSED" if release.verdict == "PASS" else "FAILED",
            "verifiedLevels": [f"FLAGRELEASE_{gate.upper().replace('-', '_')}" for gate in gates],
            "slsaVersion": "1.0",
        },
    }


def _file(name: str, data: bytes) -> File:
    media_type = _TYPES.get(PurePosixPath(name).suffix, "text/plain")
    return File(name=name, media_type=media_type, data=data)
