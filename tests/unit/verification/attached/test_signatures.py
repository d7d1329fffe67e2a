"""Signatures of a release: made once, checked with the public key, and each kind of wrong one is named."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import support.finished_cell as given
from flagrelease.config.lockfile import Lock
from flagrelease.errors import ConfigError
from flagrelease.ports.registry import referrers
from flagrelease.ports.registry.referrers import VERSION, Artifact, File
from flagrelease.run import preflight
from flagrelease.run.plan import CellPlan, Step
from flagrelease.stages.card import record
from flagrelease.stages.publish import attach, signature
from flagrelease.verification.attached import signatures
from flagrelease.verification.findings import State
from flagrelease.verification.image import Reference
from flagrelease.verification.release import Release, open_release
from support.released import Shelf

pytest.importorskip("securesystemslib")
from support.signing_keys import keys

REPOSITORY = "h/r"


@pytest.fixture
def release(tmp_path: Path) -> Release:
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "release.json").write_bytes(record.dumps(given.record()))
    return open_release(folder)


def sign(registry: Shelf, release: Release, private: Path, password: str = "") -> bool:
    sources = {"release.json": release.folder / "release.json"}
    *_, summary = attach.artifacts(release.record, release.tag, sources)
    env = {"FLAGRELEASE_SIGNING_KEY": str(private), "FLAGRELEASE_SIGNING_PASSWORD": password}
    image = release.record.image.digest
    return signature.attach_signed(registry, REPOSITORY, image, [summary], env if str(private) != "." else {})


def checked(registry: Shelf, release: Release, key: Path | None) -> list[tuple[State, str]]:
    reference = Reference(repository=REPOSITORY, name="latest")
    return [(c.state, c.detail) for c in signatures.checks(release, key, reference, registry)]


def shelf(release: Release) -> Shelf:
    return Shelf(release.record.image.digest)


@pytest.mark.parametrize(("curve", "password"), [(False, ""), (True, ""), (False, "secret words")])
def test_a_signed_release_agrees_and_is_signed_once(
    release: Release, tmp_path: Path, curve: bool, password: str
) -> None:
    private, public = keys(tmp_path, curve=curve, password=password.encode())
    registry = shelf(release)
    assert sign(registry, release, private, password)
    assert sign(registry, release, private, password)
    (attached,) = referrers.attached(registry, REPOSITORY, release.record.image.digest)
    assert attached.kind == signature.ENVELOPE
    ((state, detail),) = checked(registry, release, public)
    assert state is State.AGREES
    assert detail.startswith("signed: image sha256:3f3f3f3f3f3f… with record ")


def test_another_key_and_no_signature_are_named(release: Release, tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    _, other = keys(tmp_path, "other")
    registry = shelf(release)
    assert checked(registry, release, public) == [(State.DIFFERS, "the release is not signed")]
    assert checked(registry, release, None) == [(State.NOT_CHECKED, "the release is not signed")]
    sign(registry, release, private)
    ((state, detail),) = checked(registry, release, other)
    assert (state, detail.partition(":")[0]) == (State.DIFFERS, "no signature of this key")
    assert checked(registry, release, None) == [(State.NOT_CHECKED, "signed; --key FILE checks by whom")]


def test_a_second_signer_does_not_hide_the_first(release: Release, tmp_path: Path) -> None:
    first, second = keys(tmp_path), keys(tmp_path, "other")
    registry = shelf(release)
    for private, _ in (first, second):
        sign(registry, release, private)
    assert [checked(registry, release, public)[0][0] for _, public in (first, second)] == [State.AGREES] * 2


def tampered(envelope: dict[str, str]) -> None:
    envelope["payload"] = "e30="


def another_kind(envelope: dict[str, str]) -> None:
    envelope["payloadType"] = "text/plain"


def without_signatures(envelope: dict[str, str]) -> None:
    del envelope["signatures"]


@pytest.mark.parametrize("tamper", [tampered, another_kind, without_signatures])
def test_a_changed_envelope_is_no_signature(
    release: Release, tmp_path: Path, tamper: Callable[[dict[str, str]], None]
) -> None:
    private, public = keys(tmp_path)
    registry = shelf(release)
    sign(registry, release, private)
    (attached,) = referrers.attached(registry, REPOSITORY, release.record.image.digest)
    (file,) = referrers.files(registry, REPOSITORY, attached, most_bytes=1 << 20)
    envelope = json.loads(file.data)
    tamper(envelope)
    registry = shelf(release)
    changed = File(name=file.name, media_type=file.media_type, data=json.dumps(envelope).encode())
    artifact = Artifact(kind=signature.ENVELOPE, files=(changed,), annotations={VERSION: release.tag})
    referrers.attach(registry, REPOSITORY, release.record.image.digest, artifact)
    ((state, detail),) = checked(registry, release, public)
    assert (state, detail.partition(":")[0]) == (State.DIFFERS, "no signature of this key")


def test_a_signature_of_another_record_is_named(release: Release, tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    registry = shelf(release)
    sign(registry, release, private)
    (attached,) = referrers.attached(registry, REPOSITORY, release.record.image.digest)
    forged = replace(release, raw=release.raw.replace(b"0.29", b"0.39"))
    (file,) = referrers.files(registry, REPOSITORY, attached, most_bytes=1 << 20)
    moved = Artifact(kind=signature.ENVELOPE, files=(file,), annotations={VERSION: forged.tag})
    referrers.attach(registry, REPOSITORY, release.record.image.digest, moved)
    ((state, detail),) = checked(registry, forged, public)
    assert (state, detail[:9]) == (State.DIFFERS, "record is")


def test_a_folder_has_no_signature(release: Release, tmp_path: Path) -> None:
    _, public = keys(tmp_path)
    (found,) = signatures.checks(release, public, None, None)
    assert (found.state, found.decisive) == (State.NOT_CHECKED, True)
    assert not list(signatures.checks(release, None, None, None))


def test_keys_that_cannot_be_used_are_refused(release: Release, tmp_path: Path) -> None:
    private, public = keys(tmp_path, password=b"secret")
    registry = shelf(release)
    assert sign(registry, release, Path()) is False
    for path, password in ((private, ""), (private, "wrong"), (public, ""), (tmp_path / "none", "")):
        with pytest.raises(ConfigError, match=r"the signing key .* cannot be used"):
            sign(registry, release, path, password)
    for path in (private, tmp_path / "none"):
        with pytest.raises(ConfigError, match=r"the key .* cannot be used"):
            checked(registry, release, path)


def test_a_bad_signing_key_stops_a_run_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGRELEASE_SIGNING_KEY", str(tmp_path / "none"))
    plan = CellPlan(cell=given.job().cell, steps=(Step(stage="publish", action="run", reason="never run"),))

    class Project:
        matrix, lock = given.matrix(), Lock()

    with pytest.raises(ConfigError, match="the signing key"):
        preflight.check_cell(plan, Project())  # type: ignore[arg-type]  only the matrix is read
