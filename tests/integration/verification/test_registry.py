"""A release in a real registry, verified from there alone."""

import hashlib
import json
import os
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

import support.finished_cell as given
from flagrelease.cli import app
from flagrelease.ports.registry import MANIFEST_TYPE, OciRegistry, referrers
from flagrelease.ports.retry import Backoff
from flagrelease.stages.publish.attach import PREDICATE_TYPE, RELEASE, STATEMENT
from flagrelease.stages.publish.attestations import provenance, sbom, test_results
from flagrelease.stages.publish.attestations.statements import RECORD_TYPE
from flagrelease.stages.publish.attestations.summary import TYPE as SUMMARY
from flagrelease.stages.publish.signature import ENVELOPE
from flagrelease.stages.weights.signature import BUNDLE
from support import released
from support.registry_blobs import upload

pytestmark = pytest.mark.integration

SIGNS = find_spec("securesystemslib") is not None
HOST = f"localhost:{os.environ.get('FLAGRELEASE_REGISTRY_PORT', '5000')}"


@dataclass(frozen=True)
class Pushed:
    """A release in the registry."""

    folder: Path
    repository: str
    digest: str
    keys: Path
    """own.pub signed it, other.pub did not."""

    @property
    def tag(self) -> str:
        return self.folder.name


@pytest.fixture(scope="module")
def registry() -> OciRegistry:
    try:
        httpx.get(f"http://{HOST}/v2/", trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        pytest.skip(f"no registry at {HOST}: {error}")
    return OciRegistry(backoff=Backoff(budget=5.0))


def push(registry: OciRegistry, repository: str, vendor: str) -> tuple[str, str]:
    """A small real image by digest: its digest and its id."""
    config = json.dumps({"os": "linux", "config": {"Labels": {"vendor": vendor}}}).encode()
    name = upload(repository, config)
    described = {"mediaType": "application/vnd.oci.image.config.v1+json", "size": len(config), "digest": name}
    body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": described, "layers": []}).encode()
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    return registry.put_manifest(repository, digest, body, MANIFEST_TYPE), name


@pytest.fixture(scope="module")
def pushed(registry: OciRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushed]:
    repository = f"{HOST}/flagrelease-test/{uuid.uuid4().hex[:12]}"
    digest, name = push(registry, repository, "cpu")
    image = given.image(repository=repository, digest=digest, image_id=name, labels={"vendor": "cpu"})
    keys = tmp_path_factory.mktemp("keys")
    for key in ("own", "other"):
        private = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(keys / f"{key}.pem")]
        subprocess.run(private, check=True, capture_output=True)
        public = ["openssl", "pkey", "-in", str(keys / f"{key}.pem"), "-pubout", "-out", str(keys / f"{key}.pub")]
        subprocess.run(public, check=True, capture_output=True)
    with pytest.MonkeyPatch.context() as environment:
        if SIGNS:
            environment.setenv("FLAGRELEASE_SIGNING_KEY", str(keys / "own.pem"))
        folder = released.release(tmp_path_factory.mktemp("released"), registry=registry, image=image)
    yield Pushed(folder=folder, repository=repository, digest=digest, keys=keys)
    client = httpx.Client(base_url=f"http://{HOST}/v2/{repository.partition('/')[2]}", trust_env=False)
    for tag in client.get("/tags/list").json().get("tags") or ():
        client.delete(f"/manifests/{registry.digest(repository, tag)}")


@pytest.mark.parametrize("name", ["TAG", "latest", "DIGEST"])
def test_the_registry_alone_suffices(pushed: Pushed, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    named = {"TAG": f":{pushed.tag}", "latest": ":latest", "DIGEST": f"@{pushed.digest}"}[name]
    assert app.main(["verify", f"{pushed.repository}{named}", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    agreed = {(check["check"], check["subject"]) for check in checks if check["state"] == "agrees"}
    assert agreed >= {
        ("files", "16 files"),
        ("record", "release.json"),
        ("card", "README.md"),
        ("answers", "short-tasks, flagos on cpu"),
        ("score", "short-tasks"),
        ("image", f"{pushed.repository}{named}"),
        ("image", "labels"),
    }


def test_what_is_attached_once_stays_once(pushed: Pushed, registry: OciRegistry) -> None:
    attached = referrers.attached(registry, pushed.repository, pushed.digest)
    kinds = Counter(each.kind for each in attached)
    assert kinds == {RELEASE: 1, STATEMENT: 8, **({ENVELOPE: 8, BUNDLE: 1} if SIGNS else {})}
    types = Counter(each.annotations[PREDICATE_TYPE] for each in attached if each.kind == STATEMENT)
    assert types == {RECORD_TYPE: 1, sbom.TYPE: 1, provenance.TYPE: 1, test_results.TYPE: 4, SUMMARY: 1}
    summary = next(each for each in attached if each.kind == STATEMENT and each.annotations[PREDICATE_TYPE] == SUMMARY)
    (file,) = referrers.files(registry, pushed.repository, summary, most_bytes=1 << 20)
    statement = json.loads(file.data)
    assert statement["subject"][0]["digest"] == {"sha256": pushed.digest.removeprefix("sha256:")}
    assert statement["predicate"]["verificationResult"] == "PASSED"
    record = hashlib.sha256((pushed.folder / "release.json").read_bytes()).hexdigest()
    assert statement["predicate"]["inputAttestations"][0] == {"uri": "release.json", "digest": {"sha256": record}}
    artifact = referrers.Artifact(kind=STATEMENT, files=(file,), annotations=summary.annotations)
    assert referrers.attach(registry, pushed.repository, pushed.digest, artifact) == summary.digest
    assert referrers.attached(registry, pushed.repository, pushed.digest) == attached


@pytest.mark.skipif(not SIGNS, reason="securesystemslib is not installed")
def test_the_public_key_alone_proves_who_signed(pushed: Pushed, capsys: pytest.CaptureFixture[str]) -> None:
    subject = f"{pushed.repository}:{pushed.tag}"
    assert app.main(["verify", subject, "--key", str(pushed.keys / "own.pub"), "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert ("signature", "agrees") in {(check["check"], check["state"]) for check in checks}
    attested = [check["detail"] for check in checks if check["check"] == "attestation"]
    assert len(attested) == 8
    assert all(detail.endswith(", signed with this key") for detail in attested)
    assert app.main(["verify", subject, "--key", str(pushed.keys / "other.pub")]) == 4
    assert "no signature of this key" in capsys.readouterr().out


def test_a_moved_tag_is_named(pushed: Pushed, registry: OciRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    other, _ = push(registry, pushed.repository, "else")
    registry.put_manifest(
        pushed.repository, pushed.tag, registry.manifest(pushed.repository, other).body, MANIFEST_TYPE
    )
    try:
        subject = f"{pushed.repository}:{pushed.tag}"
        assert app.main(["verify", subject, "--folder", str(pushed.folder)]) == 4
        assert f"is {other[:19]}…; {pushed.digest[:19]}… was evaluated" in capsys.readouterr().out
        assert app.main(["verify", f"{pushed.repository}@{pushed.digest}"]) == 4
        assert f"the tag was moved to {other[:19]}…" in capsys.readouterr().out
        assert app.main(["verify", subject]) == 2
        assert f"no release is attached to {subject}" in capsys.readouterr().err
    finally:
        body = registry.manifest(pushed.repository, pushed.digest).body
        registry.put_manifest(pushed.repository, pushed.tag, body, MANIFEST_TYPE)
