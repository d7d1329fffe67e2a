"""Sign the statements about a release as DSSE envelopes, and check them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flagrelease.errors import ConfigError, EnvironmentFault
from flagrelease.ports.registry import Registry, referrers
from flagrelease.ports.registry.referrers import VERSION, Artifact, File
from flagrelease.stages.publish.attach import STATEMENT

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, Key

__all__ = ["ENVELOPE", "InvalidSignatureError", "attach_signed", "check", "opened"]

ENVELOPE = "application/vnd.dsse.envelope.v1+json"
_KEY = "FLAGRELEASE_SIGNING_KEY"
_PASSWORD = "FLAGRELEASE_SIGNING_PASSWORD"  # noqa: S105  the name of a variable
_MOST_BYTES = 64 << 20


class InvalidSignatureError(Exception):
    """The envelope is not signed with the key, or is not an envelope."""


def check(env: Mapping[str, str]) -> None:
    """Raise ConfigError or EnvironmentFault for a signing key that cannot be used."""
    _signer(env)


def attach_signed(
    registry: Registry, repository: str, image: str, statements: Sequence[Artifact], env: Mapping[str, str]
) -> bool:
    """Attach each of the statements as an envelope, signed with the configured key; False without one.

    Some kinds of keys give another signature each time, so that those of this key are looked for first. Raises the
    registry's errors.
    """
    signer = _signer(env)
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
    from securesystemslib.dsse import Envelope

    made = Envelope(file.data, STATEMENT, {})
    made.sign(signer)
    data = json.dumps(made.to_dict(), sort_keys=True).encode()
    return File(name=f"{file.name.removesuffix('.json')}.dsse.json", media_type=ENVELOPE, data=data)


def opened(registry: Registry, repository: str, image: str, tag: str, key: Path) -> list[bytes]:
    """The statements about a release that are signed with the public key in the file `key`. Raises ConfigError for
    another file, InvalidSignatureError if there are envelopes and none is signed with it, and the registry's errors."""
    public = _public(key)
    envelopes = [
        known
        for known in referrers.attached(registry, repository, image)
        if known.kind == ENVELOPE and known.annotations.get(VERSION) == tag
    ]
    statements, why = [], ""
    for known in envelopes:
        for file in referrers.files(registry, repository, known, most_bytes=_MOST_BYTES):
            try:
                statements.append(_verified(file.data, public))
            except InvalidSignatureError as error:
                why = str(error)
    if envelopes and not statements:
        raise InvalidSignatureError(why)
    return statements


def _signed(envelope: bytes, key: Key) -> bytes:
    """The payload if it is signed with `key`; else nothing."""
    try:
        return _verified(envelope, key)
    except InvalidSignatureError:
        return b""


def _verified(envelope: bytes, key: Key) -> bytes:
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error

    try:
        read = Envelope.from_dict(json.loads(envelope))
        read.verify([key], 1)
    except (Error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidSignatureError(f"{type(error).__name__}: {error}") from None
    if read.payload_type != STATEMENT:
        raise InvalidSignatureError(f"it signs {read.payload_type}, not a statement")
    return bytes(read.payload)


def _signer(env: Mapping[str, str]) -> CryptoSigner | None:
    """The signer of the configured key; None without one."""
    path = env.get(_KEY, "")
    if not path:
        return None
    _require()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    password = env.get(_PASSWORD, "").encode() or None
    try:
        return CryptoSigner(load_pem_private_key(Path(path).read_bytes(), password))
    except (OSError, ValueError, TypeError) as error:
        hint = f"{_KEY} is the path of a private key in PEM, {_PASSWORD} its password"
        raise ConfigError(f"the signing key {path} cannot be used", why=str(error), hint=hint) from None


def _public(path: Path) -> Key:
    _require()
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    try:
        return SSlibKey.from_crypto(load_pem_public_key(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        hint = "give a public key in PEM: `openssl pkey -in PRIVATE -pubout`"
        raise ConfigError(f"the key {path} cannot be used", why=str(error), hint=hint) from None


def _require() -> None:
    from importlib.util import find_spec

    if find_spec("securesystemslib") is None:
        raise EnvironmentFault("signatures need securesystemslib", hint="install flagrelease[sign]")
