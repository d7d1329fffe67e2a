"""Sign the statement about a release as a DSSE envelope, and check one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
_MOST_BYTES = 1 << 20


class InvalidSignatureError(Exception):
    """The envelope is not signed with the key, or is not an envelope."""


def check(env: Mapping[str, str]) -> None:
    """Raise ConfigError or EnvironmentFault for a signing key that cannot be used."""
    _signer(env)


def attach_signed(registry: Registry, repository: str, image: str, artifact: Artifact, env: Mapping[str, str]) -> bool:
    """Attach the statement of `artifact` as an envelope, signed with the configured key; False without one.

    Some kinds of keys give another signature each time, so that one of this key is looked for first. Raises the
    registry's errors.
    """
    signer = _signer(env)
    if signer is None:
        return False
    (file,) = artifact.files
    for known in referrers.attached(registry, repository, image):
        if known.kind == ENVELOPE and known.annotations == artifact.annotations:
            (envelope,) = referrers.files(registry, repository, known, most_bytes=_MOST_BYTES)
            if _signed(envelope.data, signer.public_key) == file.data:
                return True
    from securesystemslib.dsse import Envelope

    made = Envelope(file.data, STATEMENT, {})
    made.sign(signer)
    data = json.dumps(made.to_dict(), sort_keys=True).encode()
    signed = File(name="verification-summary.dsse.json", media_type=ENVELOPE, data=data)
    referrers.attach(
        registry, repository, image, Artifact(kind=ENVELOPE, files=(signed,), annotations=artifact.annotations)
    )
    return True


def opened(registry: Registry, repository: str, image: str, tag: str, key: Path) -> list[dict[str, Any]]:
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
                statement = json.loads(_verified(file.data, public))
            except (InvalidSignatureError, ValueError, RecursionError) as error:
                why = str(error)
                continue
            statements += [statement] if isinstance(statement, dict) else []
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
