"""Check the signature of the weights that is attached to the image of a release."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flagrelease.errors import EnvironmentFault
from flagrelease.ports.registry import Registry
from flagrelease.stages.publish import signature
from flagrelease.stages.weights import signature as model_signing
from flagrelease.stages.weights.signature import InvalidSignatureError
from flagrelease.verification.findings import Check, agrees, differs, not_checked
from flagrelease.verification.image import Reference
from flagrelease.verification.release import Release

__all__ = ["checks", "of_source"]

_CHECK, _SUBJECT = "weights", "signature"


def of_source(release: Release) -> Iterator[Check]:
    """Check the signature that the source offered, if the matrix named the key that has to have made it."""
    key, subject = release.record.model.signed_by, "signature of the source"
    if not key:
        return
    path = release.find("weights", f"weights/{model_signing.NAME}")
    if path is None or not path.is_file():
        yield differs(_CHECK, subject, f"the record names a key, and {model_signing.NAME} is not in the release")
        return
    files = release.record.weights.fetched
    try:
        wrong = model_signing.check(path.read_bytes(), key, files)
    except InvalidSignatureError as error:
        yield differs(_CHECK, subject, f"no signature of the key that the record names: {error}")
        return
    except EnvironmentFault as error:
        yield not_checked(_CHECK, subject, error.line())
        return
    yield from (differs(_CHECK, subject, text) for text in wrong[:10])
    if not wrong:
        yield agrees(_CHECK, subject, f"the key that the record names signed the sha256 of all {len(files)} files")


def checks(release: Release, key: Path | None, reference: Reference, registry: Registry) -> Iterator[Check]:
    """Compare the files that are signed with those of the record. Raises ConfigError for a bad key, and the registry's
    errors."""
    image = release.record.image.digest
    try:
        found = signature.opened_weights(registry, reference.repository, image, release.tag, key)
        if not found or key is None:
            why = "signed (OpenSSF model signing); --key FILE checks by whom" if found else "the weights are not signed"
            yield not_checked(_CHECK, _SUBJECT, why)
            return
        signed = [model_signing.read(each) for each in found]
    except InvalidSignatureError as error:
        yield differs(_CHECK, _SUBJECT, f"no signature of {key.name if key else 'a key'}: {error}")
        return
    files = release.record.weights.files
    wrong = [model_signing.differences(each, files) for each in signed]
    if all(wrong):
        yield from (differs(_CHECK, _SUBJECT, text) for text in wrong[-1][:10])
        return
    yield agrees(_CHECK, _SUBJECT, f"signed with {key.name}: the sha256 of all {len(files)} files is the record's")
