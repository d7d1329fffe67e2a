"""in-toto test results v0.1: one for each benchmark, and for tokens, speed, operators and smoke. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import msgspec

from flagrelease.contract.accuracy_results import BenchmarkScore
from flagrelease.contract.handles import VerdictName
from flagrelease.contract.results import ACCURACY, KERNELS, SMOKE, SPEED
from flagrelease.contract.speed_results import SpeedPoint
from flagrelease.stages.publish.attestations.facts import Facts
from flagrelease.stages.publish.attestations.statement import Statement, about, digest_of, evidence, sha256

__all__ = ["TYPE", "test_results"]

TYPE = "https://in-toto.io/attestation/test-result/v0.1"
MEASURED = "flagrelease_measured"
"""The field with the numbers, beside those that the predicate's specification has."""
_RESULTS: Mapping[VerdictName, str] = {"PASS": "PASSED", "INCONCLUSIVE": "WARNED", "FAIL": "FAILED"}
_LISTS = {"PASSED": "passedTests", "WARNED": "warnedTests", "FAILED": "failedTests"}
_WORST = ("FAILED", "WARNED", "PASSED")


def test_results(facts: Facts) -> list[Statement]:
    """The test results of a release."""
    found = [_benchmark(facts, row) for row in facts.release.accuracy.benchmarks]
    for made in (_tokens(facts), _speed(facts), _operators(facts)):
        found += [made] if made is not None else []
    return [*found, _smoke(facts)]


def _benchmark(facts: Facts, row: BenchmarkScore) -> Statement:
    """The answers to one benchmark, compared with the baseline's."""
    benchmark = facts.release.benchmarks.get(row.benchmark)
    questions: dict[str, Any] = {"name": row.benchmark, **digest_of(row.data_sha256)}
    if benchmark is not None:
        questions["annotations"] = {"source": benchmark.data}
    return _statement(
        facts,
        f"benchmark-{row.benchmark}",
        [(f"{row.benchmark}: not worse than {facts.release.accuracy.baseline_name}", _RESULTS[row.verdict])],
        configuration=[questions, *evidence(ACCURACY.stage, facts.release.accuracy.evidence)],
        measured=row,
    )


def _tokens(facts: Facts) -> Statement | None:
    """The log-probabilities, compared with the baseline's."""
    accuracy = facts.release.accuracy
    gate = accuracy.token_gate
    if gate is None or gate.verdict is None:
        return None
    files = [file for file in accuracy.evidence if file.name == "accuracy/tokens.json"]
    tests = [(f"tokens: computes like {accuracy.baseline_name}", _RESULTS[gate.verdict])]
    return _statement(facts, "tokens", tests, configuration=evidence(ACCURACY.stage, files), measured=gate)


def _speed(facts: Facts) -> Statement | None:
    """The load points, compared with the native stack."""
    speed = facts.release.speed
    if speed is None:
        return None
    return _statement(
        facts,
        "speed",
        [(_load(point), _RESULTS[point.verdict]) for point in speed.points],
        configuration=evidence(SPEED.stage, speed.evidence),
        measured=speed,
    )


def _load(point: SpeedPoint) -> str:
    return f"{point.input_tokens} tokens in, {point.output_tokens} out, {point.concurrency} concurrent"


def _operators(facts: Facts) -> Statement | None:
    """The operators in effect, which passed qualification; a warning for each that the vendor's kernel computes."""
    kernels = facts.release.kernels
    if kernels is None:
        return None
    tests = [(operator.name, "PASSED") for operator in kernels.operators]
    tests += [(excluded.operator, "WARNED") for excluded in kernels.excluded]
    # What the vendor's kernel computes is what the baseline computes: leaving an operator out is not a defect.
    return _statement(
        facts,
        "operators",
        tests,
        result="PASSED",
        configuration=[
            {"name": "operators", "digest": sha256(kernels.content)},
            *evidence(KERNELS.stage, kernels.evidence),
        ],
        measured=kernels,
    )


def _smoke(facts: Facts) -> Statement:
    """The checks of the started image."""
    smoke = facts.release.smoke
    tests = [(check.name, "PASSED" if check.passed else "FAILED") for check in smoke.checks]
    return _statement(facts, "smoke", tests, configuration=evidence(SMOKE.stage, smoke.evidence), measured=smoke)


def _statement(
    facts: Facts,
    name: str,
    tests: Iterable[tuple[str, str]],
    *,
    configuration: list[dict[str, Any]],
    measured: Any,
    result: str = "",
) -> Statement:
    """`tests` has pairs of name and result; the worst result is that of the whole, unless `result` is given."""
    listed: dict[str, list[str]] = {each: [] for each in _LISTS.values()}
    for test, outcome in tests:
        listed[_LISTS[outcome]].append(test)
    worst = next((outcome for outcome in _WORST if listed[_LISTS[outcome]]), "PASSED")
    numbers = {each.name: getattr(measured, each.name) for each in fields(measured) if each.name != "evidence"}
    predicate = {
        "result": result or worst,
        "configuration": configuration,
        **listed,
        MEASURED: msgspec.to_builtins(numbers, enc_hook=dict),
    }
    return about(facts, f"test-result-{name}", TYPE, predicate)
