"""Statements in a registry: untouched ones agree, and each way to tamper with one is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import support.finished_cell as given
from flagrelease.ports.registry import referrers
from flagrelease.ports.registry.referrers import VERSION, Artifact, File
from flagrelease.stages.card import record
from flagrelease.stages.publish import attach, signature
from flagrelease.stages.publish.attach import PREDICATE_TYPE, STATEMENT
from flagrelease.store.digests import sha256_of
from flagrelease.store.evidence import Evidence
from flagrelease.verification.attached import statements
from flagrelease.verification.findings import State
from flagrelease.verification.image import Reference
from flagrelease.verification.release import Release, open_release
from support.released import Shelf

REPOSITORY = "h/r"
PACKAGES = {"numpy": "2.4.6", "pip": "23.0"}
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("release")
    raw = json.dumps(PACKAGES).encode()
    (folder / "evidence/image").mkdir(parents=True)
    (folder / "evidence/image/packages.json").write_bytes(raw)
    listed = Evidence(name="packages.json", sha256=sha256_of(raw), size=len(raw))
    (folder / "release.json").write_bytes(record.dumps(given.record(image=given.image(evidence=(listed,)))))
    return open_release(folder)


def made(release: Release) -> dict[str, Artifact]:
    """The statements as they are published, by name."""
    sources = {path.relative_to(release.folder).as_posix(): path for path in release.folder.rglob("*.json")}
    _, *found = attach.artifacts(release.record, release.tag, sources)
    return {artifact.files[0].name: artifact for artifact in found}


def shelf(release: Release, artifacts: dict[str, Artifact]) -> Shelf:
    registry = Shelf(release.record.image.digest)
    for artifact in artifacts.values():
        referrers.attach(registry, REPOSITORY, registry.image, artifact)
    return registry


def checked(release: Release, registry: Shelf, key: Path | None = None) -> list[tuple[State, str, str]]:
    reference = Reference(repository=REPOSITORY, name="latest")
    return [(c.state, c.subject, c.detail) for c in statements.checks(release, key, reference, registry)]


def tampered(release: Release, name: str, change: Change) -> list[str]:
    """What differs after one statement was replaced by a changed one, and the summary names the changed one."""
    artifacts = made(release)
    content = json.loads(artifacts[name].files[0].data)
    change(content)
    data = json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"
    before = sha256_of(artifacts[name].files[0].data)
    replaced = {name: data}
    summary = artifacts["verification-summary.json"].files[0].data
    if name != "verification-summary.json":
        replaced["verification-summary.json"] = summary.replace(before.encode(), sha256_of(data).encode())
    for each, raw in replaced.items():
        file = File(name=each, media_type=STATEMENT, data=raw)
        artifacts[each] = Artifact(kind=STATEMENT, files=(file,), annotations=artifacts[each].annotations)
    found = checked(release, shelf(release, artifacts))
    return [f"{subject}: {detail}" for state, subject, detail in found if state is State.DIFFERS]


def test_untouched_statements_agree(release: Release) -> None:
    found = checked(release, shelf(release, made(release)))
    assert {(state, subject): detail for state, subject, detail in found} == {
        (State.AGREES, "release-record.json"): "is release.json",
        (State.AGREES, "sbom.json"): "2 Python packages, 0 Debian packages, as in the evidence",
        (State.AGREES, "provenance.json"): "2 dependencies, as in the evidence",
        (State.AGREES, "test-result-benchmark-mmlu-sample.json"): "PASSED, 1 passed, as in the record",
        (State.AGREES, "test-result-tokens.json"): "PASSED, 1 passed, as in the record",
        (State.AGREES, "test-result-smoke.json"): "PASSED, 2 passed, as in the record",
        (State.AGREES, "verification-summary.json"): "PASSED, names 6 other statements",
    }


def another_number(content: dict[str, Any]) -> None:
    content["predicate"]["flagrelease_measured"]["candidate"] = 0.9


def another_result(content: dict[str, Any]) -> None:
    content["predicate"]["result"] = "WARNED"


def another_record(content: dict[str, Any]) -> None:
    content["predicate"]["accuracy"]["benchmarks"][0]["candidate"] = 0.9


def a_package_less(content: dict[str, Any]) -> None:
    parts = content["predicate"]["components"]
    parts[:] = [part for part in parts if part["name"] != "pip"]


def another_version(content: dict[str, Any]) -> None:
    next(part for part in content["predicate"]["components"] if part["name"] == "numpy")["version"] = "2.4.7"


def another_base(content: dict[str, Any]) -> None:
    content["predicate"]["buildDefinition"]["resolvedDependencies"][0]["digest"]["sha256"] = "0" * 64


def another_image(content: dict[str, Any]) -> None:
    content["subject"][0]["digest"]["sha256"] = "0" * 64


def another_type(content: dict[str, Any]) -> None:
    content["predicateType"] = "https://slsa.dev/provenance/v0.2"


def nested_deeply(content: dict[str, Any]) -> None:
    inner = content["predicate"]
    for _ in range(900):
        inner["x"] = inner = {}


def another_gate(content: dict[str, Any]) -> None:
    content["predicate"]["verifiedLevels"].append("FLAGRELEASE_SPEED")


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("test-result-benchmark-mmlu-sample.json", another_number, "flagrelease_measured.candidate is 0.9, computed"),
        ("test-result-smoke.json", another_result, "result is WARNED, computed PASSED"),
        ("release-record.json", another_record, "accuracy.benchmarks[0].candidate is 0.9, computed"),
        ("sbom.json", a_package_less, "components.pkg:pypi/pip@23.0 is None, computed"),
        ("sbom.json", another_version, "components.pkg:pypi/numpy@2.4.6.version is 2.4.7, computed 2.4.6"),
        ("provenance.json", another_base, ".digest.sha256 is 0000000000"),
        ("sbom.json", another_image, "is about sha256:000000000000, not sha256:3f3f3f3f3f3f…"),
        ("provenance.json", another_type, "predicateType is https://slsa.dev/provenance/v0.2, not "),
        ("provenance.json", nested_deeply, "is nested too deeply to be compared"),
        ("verification-summary.json", another_gate, "verifiedLevels is ["),
    ],
)
def test_a_changed_statement_is_named(release: Release, name: str, change: Change, named: str) -> None:
    found = tampered(release, name, change)
    assert len([line for line in found if line.startswith(f"{name}: ") and named in line]) == 1, found


def test_a_statement_that_the_summary_does_not_name_is_named(release: Release) -> None:
    artifacts = made(release)
    sbom = artifacts["sbom.json"]
    other = File(name="sbom.json", media_type=STATEMENT, data=sbom.files[0].data + b" ")
    artifacts["again"] = Artifact(kind=STATEMENT, files=(other,), annotations=sbom.annotations)
    found = checked(release, shelf(release, artifacts))
    assert (State.DIFFERS, "sbom.json", "is not the one that the verification summary names") in found


def test_what_is_not_a_statement_is_named(release: Release) -> None:
    artifacts = made(release)
    for data in (b"{", b"[]", b"{}"):
        file = File(name="sbom.json", media_type=STATEMENT, data=data)
        artifacts["sbom.json"] = Artifact(kind=STATEMENT, files=(file,), annotations={VERSION: release.tag})
        found = checked(release, shelf(release, artifacts))
        assert (State.DIFFERS, "sbom.json", "is not a statement of in-toto") in found


def test_a_missing_statement_is_named(release: Release) -> None:
    artifacts = made(release)
    del artifacts["sbom.json"]
    found = checked(release, shelf(release, artifacts))
    assert (State.DIFFERS, "sbom.json", "missing; the verification summary names it") in found


def test_a_release_that_is_older_than_the_statements_differs_in_nothing(release: Release) -> None:
    artifacts = {name: one for name, one in made(release).items() if name == "verification-summary.json"}
    content = json.loads(artifacts["verification-summary.json"].files[0].data)
    del content["predicate"]["inputAttestations"][1:]
    file = File(name="verification-summary.json", media_type=STATEMENT, data=json.dumps(content).encode())
    registry = shelf(release, {"": Artifact(kind=STATEMENT, files=(file,), annotations={VERSION: release.tag})})
    found = checked(release, registry)
    assert {state for state, _, _ in found} == {State.AGREES, State.NOT_CHECKED}
    assert (State.NOT_CHECKED, "sbom.json", "the release has no such statement") in found


def test_a_statement_of_another_version_is_not_called_wrong(release: Release) -> None:
    artifacts = made(release)
    for name, change in (("sbom.json", a_package_less), ("verification-summary.json", later)):
        content = json.loads(artifacts[name].files[0].data)
        change(content)
        data = json.dumps(content).encode()
        artifacts[name] = Artifact(
            kind=STATEMENT,
            files=(File(name=name, media_type=STATEMENT, data=data),),
            annotations=artifacts[name].annotations,
        )
    artifacts.pop("provenance.json")
    reference = Reference(repository=REPOSITORY, name="latest")
    found = list(statements.checks(release, None, reference, shelf(release, artifacts)))
    (bill,) = (check for check in found if check.subject == "sbom.json")
    assert (bill.state, bill.decisive) == (State.NOT_CHECKED, True)
    assert bill.detail.startswith("flagrelease 99 made it, and version ")


def later(content: dict[str, Any]) -> None:
    content["predicate"]["verifier"]["version"]["flagrelease"] = "99"
    content["predicate"]["inputAttestations"] = []


def test_evidence_that_cannot_be_read_is_named(release: Release, tmp_path: Path) -> None:
    registry = shelf(release, made(release))
    (tmp_path / "release.json").write_bytes(release.raw)
    ((state, subject, detail),) = checked(open_release(tmp_path), registry)
    assert (state, subject) == (State.DIFFERS, "all statements")
    assert detail.startswith("cannot be compared with the evidence: FileNotFoundError")


def test_every_statement_has_to_be_signed(release: Release, tmp_path: Path) -> None:
    pytest.importorskip("securesystemslib")
    from support.signing_keys import keys

    private, public = keys(tmp_path)
    _, other = keys(tmp_path, "other")
    artifacts = made(release)
    registry = shelf(release, artifacts)
    env = {"FLAGRELEASE_SIGNING_KEY": str(private)}
    signed = [one for name, one in artifacts.items() if name != "sbom.json"]
    assert signature.attach_signed(registry, REPOSITORY, registry.image, signed, env)
    assert [one[1:] for one in checked(release, registry, public) if one[0] is State.DIFFERS] == [
        ("sbom.json", "is not signed with this key")
    ]
    assert signature.attach_signed(registry, REPOSITORY, registry.image, list(artifacts.values()), env)
    found = checked(release, registry, public)
    assert {state for state, _, _ in found} == {State.AGREES}
    assert all(detail.endswith(", signed with this key") for _, _, detail in found)
    assert {detail for _, _, detail in checked(release, registry, other)} == {"is not signed with this key"}
    kinds = [one.kind for one in referrers.attached(registry, REPOSITORY, registry.image)]
    assert kinds.count(signature.ENVELOPE) == len(artifacts)
    types = {one.annotations[PREDICATE_TYPE] for one in referrers.attached(registry, REPOSITORY, registry.image)}
    assert len(types) == 5
