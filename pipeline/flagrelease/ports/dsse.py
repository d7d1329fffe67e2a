"""DSSE envelopes and the keys that sign them, through securesystemslib, which is an extra of flagrelease."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagrelease.errors import ConfigError, EnvironmentFault

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, Key

__all__ = ["STATEMENT", "InvalidSignatureError", "envelope", "payload", "public_key", "read_public_key", "signer"]

STATEMENT = "application/vnd.in-toto+json"
"""The type of what is signed: a statement of in-toto."""
_KEY = "FLAGRELEASE_SIGNING_KEY"
_PASSWORD = "FLAGRELEASE_SIGNING_PASSWORD"  # noqa: S105  the name of a variable


class InvalidSignatureError(Exception):
    """The envelope is not signed with the key, or is not an envelope."""


def signer(env: Mapping[str, str]) -> CryptoSigner | None:
    """The signer of the configured key; None without one. Raises ConfigError or EnvironmentFault for a key that cannot
    be used."""
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


def read_public_key(path: Path) -> Key:
    """The public key in a file. Raises ConfigError, EnvironmentFault."""
    try:
        return public_key(path.read_bytes(), f"the key {path}")
    except OSError as error:
        raise ConfigError(f"the key {path} cannot be used", why=str(error), hint=_PUBLIC) from None


def public_key(pem: bytes, what: str) -> Key:
    """The public key in PEM; `what` names it in errors. Raises ConfigError, EnvironmentFault."""
    _require()
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    try:
        return SSlibKey.from_crypto(load_pem_public_key(pem))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{what} cannot be used", why=str(error), hint=_PUBLIC) from None


def envelope(statement: bytes, own: CryptoSigner) -> dict[str, Any]:
    """A statement as an envelope that is signed with the key."""
    from securesystemslib.dsse import Envelope

    made = Envelope(statement, STATEMENT, {})
    made.sign(own)
    return dict(made.to_dict())


def payload(raw: bytes | Mapping[str, Any], key: Key) -> bytes:
    """The statement of an envelope. Raises InvalidSignatureError unless it is signed with the key."""
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error

    try:
        read = Envelope.from_dict(dict(json.loads(raw) if isinstance(raw, bytes) else raw))
        read.verify([key], 1)
    except (Error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidSignatureError(f"{type(error).__name__}: {error}") from None
    if read.payload_type != STATEMENT:
        raise InvalidSignatureError(f"it signs {read.payload_type}, not a statement")
    return bytes(read.payload)


def _require() -> None:
    from importlib.util import find_spec

    if find_spec("securesystemslib") is None:
        raise EnvironmentFault("signatures need securesystemslib", hint="install flagrelease[sign]")


_PUBLIC = "give a public key in PEM: `openssl pkey -in PRIVATE -pubout`"
