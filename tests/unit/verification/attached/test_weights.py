"""The signature of the weights of a release: made with the key of the release, and compared with its record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import support.finished_cell as given
from flagrelease.config.lockfile import LockedFile
from flagrelease.contract.results import Weights
from flagrelease.ports.registry import referrers
from flagrelease.stages.card import record
from flagrelease.stages.publish import signature
from flagrelease.stages.publish.release_folder import evidence_paths
from flagrelease.stages.weights import signature as model_signing
from flagrelease.store.digests import sha256_of
from flagrelease.store.evidence import Evidence
from flagrelease.verification.attached import weights
from flagrelease.verification.findings import Check, State
from flagrelease.verification.image import Reference
from flagrelease.verification.release import Release, open_release
from support.released import Shelf

pytest.importorskip("securesystemslib")
from support.signing_keys import keys

REPOSITORY = "localhost:5000/flagrelease/flagrelease-cpu-smollm2-135m"
SIGNATURE = (Path(__file__).parents[3] / "support/signed_weights/model.sig").read_bytes()
SIGNED_BY = (Path(__file__).parents[3] / "support/signed_weights/model.pub").read_text()


def opened(folder: Path, made: record.Record, sig: bytes = b"") -> Release:
    folder.mkdir(exist_ok=True)
    (folder / "release.json").write_bytes(record.dumps(made))
    if sig:
        (path,) = evidence_paths([("weights", made.weights.evidence)])
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(sig)
    return open_release(folder)


def said(checks: Sequence[Check]) -> list[tuple[State, str]]:
    return [(each.state, each.detail) for each in checks]


def test_the_signature_is_made_once_and_names_every_file(tmp_path: Path) -> None:
    private, public = keys(tmp_path, curve=True)
    _, other = keys(tmp_path, "other", curve=True)
    release = opened(tmp_path / "release", given.record())
    image = release.record.image.digest
    registry, reference = Shelf(image), Reference(repository=REPOSITORY, name="latest")

    def checked(of: Release, key: Path | None) -> list[tuple[State, str]]:
        return said(list(weights.checks(of, key, reference, registry)))

    assert not signature.attach_weights(registry, release.record, {})
    assert checked(release, public) == [(State.NOT_CHECKED, "the weights are not signed")]
    for _ in range(2):  # an ECDSA signature is another each time
        assert signature.attach_weights(registry, release.record, {"FLAGRELEASE_SIGNING_KEY": str(private)})
    assert len(referrers.attached(registry, REPOSITORY, image)) == 1
    assert checked(release, public) == [
        (State.AGREES, "signed with own.pub: the sha256 of all 1 files is the record's")
    ]
    assert checked(release, None)[0][1].startswith("signed (OpenSSF model signing); --key FILE")
    ((state, detail),) = checked(release, other)
    assert (state, detail.partition(":")[0]) == (State.DIFFERS, "no signature of other.pub")
    files = (replace(given.GGUF, sha256="0" * 64),)
    changed = replace(release.record, weights=replace(release.record.weights, files=files))
    assert checked(replace(release, record=changed), public) == [
        (State.DIFFERS, f"{given.GGUF.path} has another sha256")
    ]


def test_the_signature_of_the_source_is_checked_again_from_the_release(tmp_path: Path) -> None:
    content = {"config.json": b'{"a": 1}', "model.safetensors": b"weights", "onnx/model.onnx": b"onnx"}
    files = tuple(LockedFile(path=path, size=len(data), sha256=sha256_of(data)) for path, data in content.items())
    kept = Evidence(f"weights/{model_signing.NAME}", sha256_of(SIGNATURE), len(SIGNATURE))
    fetched = Weights(
        folder="m/1", source="hf://o/m", revision="1", digest="sha256:1", files=files, bytes_moved=0, evidence=(kept,)
    )
    made = given.record(weights=fetched)
    assert said(list(weights.of_source(opened(tmp_path / "none", made, SIGNATURE)))) == []
    made = replace(made, model=replace(made.model, signed_by=SIGNED_BY))
    release = opened(tmp_path / "release", made, SIGNATURE)
    assert said(list(weights.of_source(release))) == [
        (State.AGREES, "the key that the record names signed the sha256 of all 3 files")
    ]
    other = replace(fetched, files=(replace(files[0], sha256="0" * 64), *files[1:]))
    changed = replace(release, record=replace(made, weights=other))
    assert said(list(weights.of_source(changed))) == [(State.DIFFERS, "config.json has another sha256")]
    torn = opened(tmp_path / "torn", made, SIGNATURE.replace(b'"sig":"ME', b'"sig":"MF'))
    assert torn.read("evidence/weights/weights_model.sig") != SIGNATURE
    assert [state for state, _ in said(list(weights.of_source(torn)))] == [State.DIFFERS]
    lost = opened(tmp_path / "lost", made)
    assert "is not in the release" in said(list(weights.of_source(lost)))[0][1]
