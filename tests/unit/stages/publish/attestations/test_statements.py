"""The statements about a release: valid by their specifications, the same bytes each time, and complete."""

import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import support.finished_cell as given
from flagrelease.config.lockfile import LockedChip
from flagrelease.config.waivers import Waiver
from flagrelease.errors import ConfigError
from flagrelease.stages.card import record
from flagrelease.stages.card.record import Pins
from flagrelease.stages.publish.attestations import facts, sbom
from flagrelease.stages.publish.attestations.facts import Facts
from flagrelease.stages.publish.attestations.statements import RECORD_TYPE, statements
from flagrelease.store.digests import sha256_of
from flagrelease.store.evidence import Evidence
from support.attestation_schemas import PREDICATES, STATEMENT

MANIFEST = {
    "packages": [
        {"name": "numpy", "version": "2.4.6", "sha256": "a1" * 32, "built_from": "", "file": "numpy.whl"},
        {"name": "antlr", "version": "4.9", "sha256": "b2" * 32, "built_from": "c3" * 32, "file": "antlr.whl"},
    ]
}
PACKAGES = {"numpy": "2.4.6", "antlr": "4.9", "pip": "23.0"}
SYSTEM = {
    "id": "debian",
    "version": "12",
    "packages": [
        {"name": "libc6", "version": "2.36-9+deb12u13", "architecture": "amd64"},
        {"name": "libc6", "version": "2.36-9+deb12u13", "architecture": "i386"},
        {"name": "tzdata", "version": "1:2026a-0", "architecture": "all"},
    ],
}


def known(system: Any = SYSTEM, **results: Any) -> Facts:
    files = {"manifest.json": MANIFEST, "packages.json": PACKAGES, "system-packages.json": system}
    content = {name: json.dumps(value).encode() for name, value in files.items() if value is not None}
    evidence = tuple(Evidence(name=name, sha256=sha256_of(data), size=len(data)) for name, data in content.items())
    release = given.record(image=given.image(evidence=evidence), **results)
    return facts.gather(release, record.dumps(release), release.tag, lambda path: content[path.rpartition("/")[2]])


@pytest.fixture(scope="module")
def made() -> dict[str, dict[str, Any]]:
    """All statements of a release with operators, by name."""
    return {one.name: json.loads(one.data) for one in statements(known(kernels=given.kernels()))}


def test_each_statement_is_valid_and_about_the_image(made: dict[str, dict[str, Any]]) -> None:
    for content in made.values():
        jsonschema.validate(content, STATEMENT)
        assert [one["digest"] for one in content["subject"]] == [{"sha256": "3f" * 32}]
        if content["predicateType"] not in (RECORD_TYPE, sbom.TYPE):
            jsonschema.validate(content["predicate"], PREDICATES[content["predicateType"]])
    assert list(made) == [
        "release-record",
        "sbom",
        "provenance",
        "test-result-benchmark-mmlu-sample",
        "test-result-tokens",
        "test-result-operators",
        "test-result-smoke",
        "verification-summary",
    ]


def test_the_same_release_gives_the_same_bytes() -> None:
    first, second = (statements(known(kernels=given.kernels())) for _ in range(2))
    assert [one.data for one in first] == [one.data for one in second]


def test_the_bill_of_materials_is_valid_and_complete(made: dict[str, dict[str, Any]]) -> None:
    bill = made["sbom"]["predicate"]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    parts = {part["bom-ref"]: part for part in bill["components"]}
    assert set(parts) == {
        "base",
        "system",
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u13?arch=amd64&distro=debian-12",
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u13?arch=i386&distro=debian-12",
        "pkg:deb/debian/tzdata@1:2026a-0?arch=all&distro=debian-12",
        "pkg:pypi/antlr@4.9",
        "pkg:pypi/numpy@2.4.6",
        "pkg:pypi/pip@23.0",
        "operators",
        "model",
        "data/mmlu-sample",
    }
    assert parts["pkg:pypi/numpy@2.4.6"]["hashes"] == [{"alg": "SHA-256", "content": "a1" * 32}]
    assert {"name": "flagrelease:from", "value": "base"} in parts["pkg:pypi/pip@23.0"]["properties"]
    assert parts["model"]["components"][0]["hashes"] == [{"alg": "SHA-256", "content": given.GGUF.sha256}]
    assert parts["model"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    (of_image,) = (one for one in bill["dependencies"] if one["ref"] == "image")
    assert set(of_image["dependsOn"]) == set(parts)


@pytest.mark.parametrize("system", [None, {"id": "centos", "version": "9", "packages": []}])
def test_packages_that_were_not_recorded_are_said_to_be_missing(system: Any) -> None:
    bill = next(one.content["predicate"] for one in statements(known(system=system)) if one.name == "sbom")
    said = {each["name"]: each["value"] for each in bill["metadata"]["component"]["properties"]}
    assert said["flagrelease:incomplete"] == "packages of the operating system were not recorded"


def test_the_provenance_has_the_locked_digests() -> None:
    pinned = LockedChip(base="vendor/base:1", digest="sha256:" + "d4" * 32)
    plain = known()
    changed = replace(plain, release=replace(plain.release, pins=Pins(chip=pinned)))
    predicate = next(one.content["predicate"] for one in statements(changed) if one.name == "provenance")
    digests = [one["digest"]["sha256"] for one in predicate["buildDefinition"]["resolvedDependencies"]]
    # The base, the archive that one package was built from, the wheel of the other, and the file of the model.
    assert digests == ["d4" * 32, "c3" * 32, "a1" * 32, given.GGUF.sha256]
    assert predicate["buildDefinition"]["externalParameters"]["cell"] == "cpu/smollm2-135m"
    assert predicate["runDetails"]["metadata"]["invocationId"] == (b"image".hex() * 8)[:64]


def test_a_test_result_has_the_numbers_of_the_record(made: dict[str, dict[str, Any]]) -> None:
    row = given.record().accuracy.benchmarks[0]
    predicate = made["test-result-benchmark-mmlu-sample"]["predicate"]
    assert predicate["result"] == "PASSED"
    assert predicate["passedTests"] == ["mmlu-sample: not worse than native on cpu"]
    assert predicate["flagrelease_measured"]["candidate"] == row.candidate
    operators = made["test-result-operators"]["predicate"]
    kernels = given.kernels()
    assert operators["passedTests"] == [operator.name for operator in kernels.operators]
    assert operators["warnedTests"] == [excluded.operator for excluded in kernels.excluded]
    assert operators["result"] == "PASSED"


def test_a_failed_benchmark_is_a_failed_test() -> None:
    row = given.score(verdict="FAIL")
    by_name = {one.name: one.content["predicate"] for one in statements(known(accuracy=given.accuracy(row)))}
    assert by_name["test-result-benchmark-mmlu-sample"]["result"] == "FAILED"


def test_questions_without_a_digest_are_named_without_one() -> None:
    accuracy = given.accuracy(given.score(data_sha256="not reported by FlagEval"))
    by_name = {one.name: one.content["predicate"] for one in statements(known(accuracy=accuracy))}
    assert "digest" not in by_name["test-result-benchmark-mmlu-sample"]["configuration"][0]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(by_name["sbom"])) is None


def test_the_summary_names_every_other_statement_by_digest() -> None:
    *others, last = statements(known())
    named = {one["uri"]: one["digest"]["sha256"] for one in last.content["predicate"]["inputAttestations"]}
    assert named.pop("release.json") == sha256_of(known().raw)
    assert named == {f"{one.name}.json": sha256_of(one.data) for one in others}


@pytest.mark.parametrize("damage", [b"{", b"[]"])
def test_damaged_evidence_is_named(damage: bytes) -> None:
    release = given.record(image=given.image(evidence=(Evidence(name="packages.json", sha256="0" * 64, size=1),)))
    with pytest.raises(ConfigError, match=r"evidence/image/packages\.json is damaged"):
        facts.gather(release, b"", "tag", lambda _path: damage)


def test_the_summary_names_what_was_waived_by_whom_and_until_when() -> None:
    waiver = Waiver(chip="cpu", model="*", gate="speed", reason="slow driver", owner="kernels", until="2099-01-01")
    plain, waived = known(), known()
    waived = replace(waived, release=replace(waived.release, waivers=(waiver,)))
    policies = [statements(each)[-1].content["predicate"]["policy"]["annotations"] for each in (plain, waived)]
    assert "waivers" not in policies[0]
    (named,) = policies[1]["waivers"]
    assert named == {"gate": "speed", "reason": "slow driver", "owner": "kernels", "until": "2099-01-01"}
