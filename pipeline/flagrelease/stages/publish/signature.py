"""Sign the statements about a release as DSSE envelopes, and its weights; check both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flagrelease.ports import dsse
from flagrelease.ports.dsse import InvalidSignatureError
from flagrelease.ports.registry import Registry, referrers
from flagrelease.ports.registry.referrers import VERSION, Artifact, File
from flagrelease.stages.card.record import Record
from flagrelease.stages.publish.attach import PREDICATE_TYPE
from flagrelease.stages.weights import signature as model_signing

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, Key

__all__ = ["ENVELOPE", "InvalidSignatureError", "attach_signed", "attach_weights", "check", "opened", "opened_weights"]

ENVELOPE = "application/vnd.dsse.envelope.v1+json"
_MOST_BYTES = 64 << 20


def check(env: Mapping[str, str]) -> None:
    """Raise ConfigError or EnvironmentFault for a signing key that cannot be used."""
    dsse.signer(env)


def attach_signed(
    registry: Registry, repository: str, image: str, statements: Sequence[Artifact], env: Mapping[str, str]
) -> bool:
    """Attach each of the statements as an envelope, signed with the configured key; False without one.

    Some kinds of keys give another signature each time, so that those of this key are looked for first. Raises the
    registry's errors.
    """
    signer = dsse.signer(env)
    if signer is None:
        return False
    known = _known(registry, repository, image, statements, signer.public_key)
    for artifact in statements:
        (file,) = artifact.files
        if file.data not in known:
            signed = _envelope(file, signer)
            envelope = Artifact(kind=ENVELOPE, files=(signed,), annotations=artifact.annotations)
            referrers.attach(registry, repository, image, envelope)
    return True


def _known(registry: Registry, repository: str, image: str, statements: Sequence[Artifact], key: Key) -> set[bytes]:
    """The statements of the same releases that are attached and signed with the key."""
    wanted = [artifact.annotations for artifact in statements]
    found = set()
    for known in referrers.attached(registry, repository, image):
        if known.kind == ENVELOPE and known.annotations in wanted:
            for envelope in referrers.files(registry, repository, known, most_bytes=_MOST_BYTES):
                found.add(_signed(envelope.data, key))
    return found


def _envelope(file: File, signer: CryptoSigner) -> File:
    data = json.dumps(dsse.envelope(file.data, signer), sort_keys=True).encode()
    return File(name=f"{file.name.removesuffix('.json')}.dsse.json", media_type=ENVELOPE, data=data)


def opened(registry: Registry, repository: str, image: str, tag: str, key: Path) -> list[bytes]:
    """The statements about a release that are signed with the public key in the file `key`. Raises ConfigError for
    another file, InvalidSignatureError if there are envelopes and none is signed with it, and the registry's errors."""
    public = dsse.read_public_key(key)
    envelopes = [
        known
        for known in referrers.attached(registry, repository, image)
        if known.kind == ENVELOPE and known.annotations.get(VERSION) == tag
    ]
    statements, why = [], ""
    for known in envelopes:
        for file in referrers.files(registry, repository, known, most_bytes=_MOST_BYTES):
            try:
                statements.append(dsse.payload(file.data, public))
            except InvalidSignatureError as error:
                why = str(error)
    if envelopes and not statements:
        raise InvalidSignatureError(why)
    return statements


def attach_weights(registry: Registry, release: Record, env: Mapping[str, str]) -> bool:
    """Attach the signature of the weights that a release serves, made with the configured key; False without one.
    Raises the registry's errors."""
    signer = dsse.signer(env)
    if signer is None:
        return False
    image, tag = release.image, release.tag
    made = model_signing.statement(release.model.title, release.weights.files)
    for file in _signatures_of_weights(registry, image.repository, image.digest, tag):
        with suppress(InvalidSignatureError):  # of another key
            if model_signing.opened(file.data, signer.public_key) == made:
                return True
    file = File(name=model_signing.NAME, media_type=model_signing.BUNDLE, data=model_signing.bundle(made, signer))
    annotations = {VERSION: tag, PREDICATE_TYPE: model_signing.TYPE}
    artifact = Artifact(kind=model_signing.BUNDLE, files=(file,), annotations=annotations)
    referrers.attach(registry, image.repository, image.digest, artifact)
    return True


def opened_weights(registry: Registry, repository: str, image: str, tag: str, key: Path | None) -> list[bytes]:
    """The statements about the weights of a release that are signed with the public key in the file `key`; without one,
    all signatures. Raises ConfigError for another file, InvalidSignatureError if there are signatures and none is of
    the key, and the registry's errors."""
    files = _signatures_of_weights(registry, repository, image, tag)
    if key is None:
        return [file.data for file in files]
    public = dsse.read_public_key(key)
    statements, why = [], ""
    for file in files:
        try:
            statements.append(model_signing.opened(file.data, public))
        except InvalidSignatureError as error:
            why = str(error)
    if files and not statements:
        raise InvalidSignatureError(why)
    return statements


def _signatures_of_weights(registry: Registry, repository: str, image: str, tag: str) -> list[File]:
    return [
        file
        for known in referrers.attached(registry, repository, image)
        if known.kind == model_signing.BUNDLE and known.annotations.get(VERSION) == tag
        for file in referrers.files(registry, repository, known, most_bytes=_MOST_BYTES)
    ]


def _signed(envelope: bytes, key: Key) -> bytes:
    """The payload if it is signed with `key`; else nothing."""
    try:
        return dsse.payload(envelope, key)
    except InvalidSignatureError:
        return b""
