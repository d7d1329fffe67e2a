"""Signatures of weights in the format of OpenSSF model signing 1.0: made, read and compared with files.

The format is a bundle of sigstore around a DSSE envelope, whose statement lists every file with its sha256. A signature
that a key made is checked here; one that a certificate made names a person, whom nothing in a matrix can name yet.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flagrelease.config.lockfile import LockedFile
from flagrelease.ports import dsse
from flagrelease.ports.dsse import InvalidSignatureError

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, Key

__all__ = [
    "BUNDLE",
    "NAME",
    "TYPE",
    "InvalidSignatureError",
    "Signed",
    "bundle",
    "check",
    "differences",
    "key_of",
    "opened",
    "read",
    "statement",
]

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
"""The media type of a signature."""
TYPE = "https://model_signing/signature/v1.0"
"""The type of the statement's predicate."""
NAME = "model.sig"
"""The usual name of the file."""
_IGNORED = (".git", ".gitattributes", ".github", ".gitignore", NAME)
"""Files that are not part of a model, by the format's reference implementation."""


@dataclass(frozen=True, kw_only=True)
class Signed:
    """What a signature says."""

    files: Mapping[str, str]
    """By path, the sha256 (hex)."""
    ignored: tuple[str, ...]
    """Paths that are not signed, with everything below them."""


def statement(name: str, files: Iterable[LockedFile]) -> bytes:
    """The statement about these files, in a canonical form: the same files give the same bytes."""
    listed = sorted(files, key=lambda file: file.path)
    root = hashlib.sha256(b"".join(bytes.fromhex(file.sha256) for file in listed)).hexdigest()
    content = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(_IGNORED),
            },
            "resources": [{"name": file.path, "algorithm": "sha256", "digest": file.sha256} for file in listed],
        },
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def bundle(made: bytes, signer: CryptoSigner) -> bytes:
    """The statement as a signature file."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    envelope = dsse.envelope(made, signer)
    public = load_pem_private_key(signer.private_bytes, None).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    content = {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": hashlib.sha256(pem).hexdigest()}, "tlogEntries": []},
        "dsseEnvelope": {
            **envelope,
            "signatures": [{"sig": each["sig"], "keyid": ""} for each in envelope["signatures"]],
        },
    }
    return json.dumps(content, sort_keys=True).encode()


def opened(raw: bytes, key: Key) -> bytes:
    """The statement in a signature file. Raises InvalidSignatureError unless it is signed with the key."""
    try:
        content = json.loads(raw)
        material, envelope = content["verificationMaterial"], content["dsseEnvelope"]
        signatures = [{"sig": str(each["sig"]), "keyid": key.keyid} for each in envelope["signatures"]]
        by_key = "publicKey" in material
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidSignatureError(f"not a signature of OpenSSF model signing: {type(error).__name__}") from None
    if not by_key:
        raise InvalidSignatureError("a certificate made it, not a key, and certificates are not checked")
    return dsse.payload({**envelope, "signatures": signatures}, key)


def check(raw: bytes, pem: str, files: Iterable[LockedFile]) -> list[str]:
    """How a model's files differ from those of its signature file, which the key in PEM has to have made. Raises
    InvalidSignatureError if it has not, ConfigError for something else than a key."""
    return differences(read(opened(raw, key_of(pem))), files)


def key_of(pem: str) -> Key:
    """The key that has to have signed the weights. Raises ConfigError, EnvironmentFault."""
    return dsse.public_key(pem.encode(), "the key that has to have signed the weights")


def read(raw: bytes) -> Signed:
    """What a statement says. Raises InvalidSignatureError for a form that cannot be compared with files."""
    try:
        content = json.loads(raw)
        if content["predicateType"] != TYPE:
            raise InvalidSignatureError(f"it is a {content['predicateType']}, not a {TYPE}")
        how, resources = content["predicate"]["serialization"], content["predicate"]["resources"]
        if (how["method"], how["hash_type"]) != ("files", "sha256"):
            raise InvalidSignatureError(
                f"it has {how['hash_type']} of {how['method']}; only sha256 of files is checked"
            )
        files = {str(each["name"]): _sha256(each) for each in resources}
        ignored = tuple(str(path).rstrip("/") for path in how.get("ignore_paths", ()))
        root = hashlib.sha256(b"".join(bytes.fromhex(_sha256(each)) for each in resources)).hexdigest()
        if [each["digest"]["sha256"] for each in content["subject"]] != [root]:
            raise InvalidSignatureError("its digest of the model is not that of the files that it lists")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidSignatureError(f"not a statement about a model: {type(error).__name__}: {error}") from None
    return Signed(files=files, ignored=ignored)


def _sha256(resource: Mapping[str, Any]) -> str:
    if resource["algorithm"] != "sha256":
        raise InvalidSignatureError(f"it has the {resource['algorithm']} of a file; only sha256 is checked")
    return str(resource["digest"]).lower()


def differences(signed: Signed, files: Iterable[LockedFile]) -> list[str]:
    """How the files of a model differ from those that are signed."""
    known = {file.path: file.sha256 for file in files if not _ignores(signed, file.path)}
    both = sorted(known.keys() & signed.files.keys())
    return [
        *(f"{path} is not signed" for path in sorted(known.keys() - signed.files.keys())),
        *(f"{path} has another sha256" for path in both if known[path] != signed.files[path]),
        *(f"{path} is signed and missing" for path in sorted(signed.files.keys() - known.keys())),
    ]


def _ignores(signed: Signed, path: str) -> bool:
    return path == NAME or any(path == each or path.startswith(f"{each}/") for each in signed.ignored)
