"""Signatures of weights: those of the reference implementation are read, ours have its format, and each kind of wrong
one is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from flagrelease.config.lockfile import LockedFile
from flagrelease.stages.weights import signature
from flagrelease.stages.weights.signature import InvalidSignatureError

pytest.importorskip("securesystemslib")
from flagrelease.ports import dsse
from support.signing_keys import keys

GOLDEN = Path(__file__).parents[3] / "support/signed_weights"
MODEL = {"config.json": b'{"a": 1}', "model.safetensors": b"weights", "onnx/model.onnx": b"onnx"}
"""What model-signing 1.1.1 signed, with the key of which model.pub is the public one."""


def locked(files: dict[str, bytes]) -> list[LockedFile]:
    return [
        LockedFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest()) for path, data in files.items()
    ]


def test_a_signature_of_the_reference_implementation_is_checked() -> None:
    raw, pem = (GOLDEN / "model.sig").read_bytes(), (GOLDEN / "model.pub").read_text()
    around = {".gitattributes": b"x", "model.sig": raw, ".github/a.yml": b"x"}  # which nobody signs
    assert signature.check(raw, pem, locked({**MODEL, **around})) == []
    changed = {"config.json": b'{"a": 2}', "run.py": b"import os", "onnx/model.onnx": b"onnx"}
    assert signature.check(raw, pem, locked(changed)) == [
        "run.py is not signed",
        "config.json has another sha256",
        "model.safetensors is signed and missing",
    ]


@pytest.mark.parametrize("curve", [False, True])
def test_our_signature_lists_the_files_and_the_same_files_give_the_same_statement(tmp_path: Path, curve: bool) -> None:
    private, public = keys(tmp_path, curve=curve)
    signer = dsse.signer({"FLAGRELEASE_SIGNING_KEY": str(private)})
    assert signer is not None
    made = signature.statement("model", locked(MODEL))
    assert made == signature.statement("model", reversed(locked(MODEL)))
    raw = signature.bundle(made, signer)
    assert signature.opened(raw, dsse.read_public_key(public)) == made
    assert signature.check(raw, public.read_text(), locked(MODEL)) == []
    ours, theirs = json.loads(raw), json.loads((GOLDEN / "model.sig").read_bytes())
    assert ours.keys() == theirs.keys()
    assert ours["verificationMaterial"].keys() == theirs["verificationMaterial"].keys()
    assert ours["dsseEnvelope"].keys() == theirs["dsseEnvelope"].keys()
    _, other = keys(tmp_path, "other", curve=curve)
    with pytest.raises(InvalidSignatureError):
        signature.opened(raw, dsse.read_public_key(other))


def edited(**changes: Any) -> bytes:
    return json.dumps({**json.loads((GOLDEN / "model.sig").read_bytes()), **changes}).encode()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "not a signature of OpenSSF model signing"),
        (b"[]", "not a signature of OpenSSF model signing"),
        (b"{" * 100_000, "not a signature of OpenSSF model signing"),
        (edited(dsseEnvelope={}), "not a signature of OpenSSF model signing"),
        (edited(verificationMaterial={"x509CertificateChain": {}}), "a certificate made it"),
        (
            edited(dsseEnvelope={"payload": "e30=", "payloadType": dsse.STATEMENT, "signatures": [{"sig": "AA=="}]}),
            "Error",
        ),
    ],
)
def test_what_is_no_signature_of_the_key(raw: bytes, said: str) -> None:
    with pytest.raises(InvalidSignatureError, match=said):
        signature.check(raw, (GOLDEN / "model.pub").read_text(), locked(MODEL))


def statement(**predicate: Any) -> bytes:
    made = json.loads(signature.statement("model", locked(MODEL)))
    made["predicate"] |= predicate
    return json.dumps(made).encode()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (statement(serialization={"method": "shards", "hash_type": "sha256"}), "only sha256 of files is checked"),
        (statement(serialization={"method": "files", "hash_type": "blake3"}), "only sha256 of files is checked"),
        (statement(resources=[{"name": "a", "algorithm": "blake2", "digest": "00"}]), "the blake2 of a file"),
        (statement(resources=[]), "is not that of the files that it lists"),
        (b'{"predicateType": "x"}', "it is a x, not a https://model_signing"),
        (b"{}", "not a statement about a model"),
    ],
)
def test_a_statement_that_cannot_be_compared_is_not_taken_for_one_that_agrees(raw: bytes, said: str) -> None:
    with pytest.raises(InvalidSignatureError, match=said):
        signature.read(raw)
