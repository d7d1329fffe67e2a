"""Check who signed the summary of a release, and that it is of this one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flagrelease.ports.registry import Registry, referrers
from flagrelease.ports.registry.referrers import VERSION
from flagrelease.stages.publish import signature
from flagrelease.stages.publish.attestations.summary import TYPE as SUMMARY
from flagrelease.stages.publish.signature import ENVELOPE, InvalidSignatureError
from flagrelease.store.digests import sha256_of
from flagrelease.verification.attached.statements import parse
from flagrelease.verification.findings import Check, agrees, differs, not_checked
from flagrelease.verification.image import Reference
from flagrelease.verification.release import Release
from flagrelease.verification.values import differences

__all__ = ["checks"]

_CHECK = "signature"


def checks(
    release: Release, key: Path | None, reference: Reference | None, registry: Registry | None
) -> Iterator[Check]:
    """Compare the signed statement with the release. Raises ConfigError for a bad key, and the registry's errors."""
    if reference is None or registry is None:
        if key is not None:
            why = "signatures are attached to the image: give the image instead of the folder"
            yield not_checked(_CHECK, key.name, why, decisive=True)
        return
    image, tag = release.record.image.digest, release.tag
    if key is None:
        attached = referrers.attached(registry, reference.repository, image)
        signed = any(each.kind == ENVELOPE and each.annotations.get(VERSION) == tag for each in attached)
        yield not_checked(_CHECK, tag, "signed; --key FILE checks by whom" if signed else "the release is not signed")
        return
    try:
        statements = signature.opened(registry, reference.repository, image, tag, key)
    except InvalidSignatureError as error:
        yield differs(_CHECK, key.name, f"no signature of this key: {error}")
        return
    if not statements:
        yield differs(_CHECK, key.name, "the release is not signed")
        return
    summaries = [made for made in map(parse, statements) if made.get("predicateType") == SUMMARY]
    if not summaries:
        yield differs(_CHECK, key.name, "no verification summary is signed with this key")
        return
    found = _differences(release, summaries[-1])
    yield from (differs(_CHECK, key.name, text) for text in found)
    if not found:
        yield agrees(_CHECK, key.name, f"signed: image {image[:19]}… with record {sha256_of(release.raw)[:12]}… passed")


def _differences(release: Release, statement: dict[str, Any]) -> list[str]:
    """What the statement says of another release."""
    predicate = statement.get("predicate")
    said = predicate if isinstance(predicate, dict) else {}
    subjects, inputs = statement.get("subject"), said.get("inputAttestations")
    signed = {"image": _digest(subjects), "record": _digest(inputs), "result": said.get("verificationResult")}
    image = release.record.image.digest.removeprefix("sha256:")
    return differences(signed, {"image": image, "record": sha256_of(release.raw), "result": "PASSED"})


def _digest(listed: Any) -> Any:
    """The sha256 of the first of the listed resources."""
    first = listed[0] if isinstance(listed, list) and listed else None
    digest = first.get("digest") if isinstance(first, dict) else None
    return digest.get("sha256") if isinstance(digest, dict) else None
