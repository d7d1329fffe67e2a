"""What smoke says of the operators, by what the container reports of them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

import finished_cell as given
from flagrelease import smokeoperators
from flagrelease.evidence import Evidence
from flagrelease.smokechecks import Wrong
from flagrelease.wheels import sha256_of

LISTED = "include: [mm, neg]\n"
KERNELS = given.kernels(evidence=(Evidence("operators.yaml", sha256_of(LISTED.encode()), len(LISTED)),))
FINE = {
    "processes": [7, 9],
    "bundles": [KERNELS.content],
    "operators": ["mm", "neg"],
    "partial": [],
    "called": ["mm"],
    "tuning_events": 0,
    "tuned": [],
    "filled": 0,
    "compilations": 0,
}


def inside(listed: str = LISTED, noise: str = "", **changes: Any) -> Any:
    effective = noise + json.dumps({**FINE, **changes}, indent=1) + "\n"
    image = SimpleNamespace(runner="docker")
    context = SimpleNamespace(workspace=None)
    return SimpleNamespace(
        image=image, context=context, execute=lambda *argv: listed if argv[0] == "cat" else effective
    )


def test_what_is_in_effect_is_told_in_a_line() -> None:
    told = smokeoperators.in_effect(inside(), KERNELS)
    assert told == f"2 operators in 2 processes, bundle {KERNELS.content[:12]}"


def test_what_a_vendors_library_prints_beside_it_does_not_matter() -> None:
    told = smokeoperators.in_effect(inside(noise="[ACL] {device} warning\n"), KERNELS)
    assert told.startswith("2 operators in 2 processes")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"listed": "include: [mm]\n"}, "operators.yaml is not the one that was made"),
        ({"partial": ["neg"], "operators": ["mm"]}, "only some of 2 processes have neg"),
        ({"operators": ["mm"]}, r"in effect are 1 operators: \['neg'\] are missing, \[\] are too many"),
        ({"bundles": ["ff" * 32]}, "in effect is bundle"),
    ],
)
def test_what_differs_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(Wrong, match=said):
        smokeoperators.in_effect(inside(**changes), KERNELS)


def test_what_is_called_is_named_and_what_is_not() -> None:
    assert smokeoperators.called(inside(), KERNELS) == "mm; not neg"
    assert smokeoperators.called(inside(called=["mm", "neg"]), KERNELS) == "mm, neg"


def test_a_service_that_calls_no_operator_is_the_native_one() -> None:
    with pytest.raises(Wrong, match="none of mm, neg was called"):
        smokeoperators.called(inside(called=[]), KERNELS)


@pytest.mark.parametrize("printed", ["Segmentation fault", "{\n", ""])
def test_no_answer_is_told_as_one(printed: str) -> None:
    with pytest.raises(Wrong, match="what is in effect cannot be read"):
        smokeoperators.told(printed)
