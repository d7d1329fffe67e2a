"""The operator checks of smoke, on the status that the container reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import support.finished_cell as given
from flagrelease.config.engines import Parallel
from flagrelease.contract.results import WEIGHTS
from flagrelease.serving import operator_status
from flagrelease.serving.inside import CheckFailed, Inside
from flagrelease.stages.smoke import operator_checks
from flagrelease.store.digests import sha256_of
from flagrelease.store.evidence import Evidence
from support.contexts import Executing, Shown, SleeplessClock, served, without_ports

LISTED = "include: [mm, neg]\n"
KERNELS = given.kernels(evidence=(Evidence("operators.yaml", sha256_of(LISTED.encode()), len(LISTED)),))
FINE = {
    "processes": [7, 9],
    "bundles": [KERNELS.content],
    "operators": ["mm", "neg"],
    "partial": [],
    "called": {"mm": 3},
    "captured": [],
    "tuning_events": 0,
    "tuned": [],
    "filled": 0,
    "compilations": 0,
}


def inside(prints: Callable[[Sequence[str]], str]) -> Inside:
    """A served container whose programs print the result of `prints`."""
    context = without_ports(Path("nowhere"), SleeplessClock(), Shown())
    weights, image = given.finished().result(WEIGHTS), given.image()
    cell = given.job().cell
    return Inside(cell=cell, context=context, server=served(Executing(prints)), image=image, weights=weights)


def reporting(listed: str = LISTED, noise: str = "", **changes: Any) -> Inside:
    """A container that has `listed` in operators.yaml, and FINE with these changes in effect."""
    effective = noise + json.dumps({**FINE, **changes}, indent=1) + "\n"
    return inside(lambda argv: listed if argv[0] == "cat" else effective)


def test_operators_in_effect_are_reported_in_a_line() -> None:
    detail = operator_checks.in_effect(reporting(), KERNELS)
    assert detail == f"2 operators in 2 processes, bundle {KERNELS.content[:12]}"


def test_other_output_of_a_vendors_library_is_ignored() -> None:
    detail = operator_checks.in_effect(reporting(noise="[ACL] {device} warning\n"), KERNELS)
    assert detail.startswith("2 operators in 2 processes")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"listed": "include: [mm]\n"}, "operators.yaml differs from the one in the bundle"),
        ({"partial": ["neg"], "operators": ["mm"]}, "only some of 2 processes have neg"),
        ({"operators": ["mm"]}, r"1 operators are in effect: missing \['neg'\], unexpected \[\]"),
        ({"bundles": ["ff" * 32]}, r"bundle \[.*\] is in effect instead of"),
    ],
)
def test_what_differs_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckFailed, match=message):
        operator_checks.in_effect(reporting(**changes), KERNELS)


def test_ranks_with_different_configurations_fail() -> None:
    bench = Asked({})
    bench.long_tokens = 8  # type: ignore[attr-defined]
    with pytest.raises(CheckFailed, match="two processes use different configurations of mm_kernel"):
        operator_checks.no_tuning(reporting(differing=["mm_kernel"]), bench)  # type: ignore[arg-type]


def test_a_device_on_which_nothing_is_called_is_found() -> None:
    def on(*devices: int, pipeline: int = 1) -> Inside:
        at = reporting(devices=devices)
        serve = replace(at.cell.model.serve, engine="vllm", devices=2, parallel=Parallel(pipeline=pipeline), args={})
        return replace(at, cell=replace(at.cell, model=replace(at.cell.model, serve=serve)))

    assert operator_checks.on_every_device(on(0, 1)) == "called on devices 0, 1"
    assert operator_checks.on_every_device(on(1, pipeline=2)) == "called on devices 1"
    for devices, named in (((0,), "devices 0"), ((), "none")):
        with pytest.raises(CheckFailed, match=f"the model has 2 devices, and operators were called on {named}"):
            operator_checks.on_every_device(on(*devices))


class Asked:
    """A service whose operator call counts grow by `more` after its requests."""

    def __init__(self, more: dict[str, int], captured: tuple[str, ...] = ()) -> None:
        self.more, self.captured = more, captured
        self.asked: list[dict[str, Any]] = []
        self.model = given.model(serve=replace(given.model().serve, concurrency=4))

    def ask(self, *_prompt: str, **parameters: Any) -> None:
        self.asked.append(parameters)

    def called(self) -> str:
        def prints(_argv: Sequence[str]) -> str:
            counts = {"mm": 3}
            if self.asked and sum(at.context.ports.clock.slept) >= operator_status.STATUS_LAG_S:  # type: ignore[attr-defined]
                counts = {name: counts.get(name, 0) + self.more.get(name, 0) for name in {*counts, *self.more}}
            return json.dumps({**FINE, "called": counts, "captured": self.captured}, indent=1) + "\n"

        at = inside(prints)
        found = operator_checks.called(at, self, KERNELS)  # type: ignore[arg-type]  # a Bench without a server
        assert at.context.ports.clock.slept == [operator_status.STATUS_LAG_S]  # type: ignore[attr-defined]
        return found


def test_what_requests_call_is_named_and_what_they_do_not() -> None:
    service = Asked({"mm": 1})
    assert service.called() == "mm; not neg"
    drawn = [request for request in service.asked if request.get("temperature")]
    assert len(drawn) == len(service.asked) - len(drawn) == 1 + 2 + 4
    assert Asked({"mm": 1, "neg": 8}).called() == "mm, neg"
    assert Asked({"mm": 1}, captured=("neg",)).called() == "mm; in graphs neg"
    assert Asked({}, captured=("neg",)).called() == "in graphs neg; not mm"


@pytest.mark.parametrize(("most", "expected"), [(1, [1]), (4, [1, 2, 4]), (12, [1, 2, 4, 8, 12])])
def test_requests_make_the_batches_that_operators_are_chosen_at(most: int, expected: list[int]) -> None:
    assert operator_checks._steps_of_two(most) == expected


def test_calls_during_warm_up_do_not_count() -> None:
    with pytest.raises(CheckFailed, match=r"no request called mm, neg \(greedy and sampled, up to 4 concurrent\)"):
        Asked({}).called()


@pytest.mark.parametrize("printed", ["Segmentation fault", "{\n", ""])
def test_unreadable_status_is_reported(printed: str) -> None:
    with pytest.raises(CheckFailed, match="cannot read which operators are in effect"):
        operator_status.parse_effective(printed)


class Unhurried:
    """Stand-in for a server that answers every request: the part of `Bench` that no_tuning uses."""

    long_tokens = 64
    model = given.job().cell.model

    def ask(self, *_prompt: object, **_parameters: object) -> None: ...


@pytest.mark.parametrize(("events", "found"), [(0, "0 tuning events after 100 requests"), (3, "3 candidates of mm")])
def test_tuning_is_checked_after_the_processes_have_reported_it(events: int, found: str) -> None:
    clock = SleeplessClock()

    def prints(_argv: Sequence[str]) -> str:
        late = sum(clock.slept) >= operator_status.STATUS_LAG_S
        return json.dumps({**FINE, "tuning_events": events if late else 0, "tuned": ["mm"]}, indent=1) + "\n"

    at = inside(prints)
    at = replace(at, context=replace(at.context, ports=replace(at.context.ports, clock=clock)))
    service: Any = Unhurried()
    if events:
        with pytest.raises(CheckFailed, match=f"{found} were timed"):
            operator_checks.no_tuning(at, service)
    else:
        assert operator_checks.no_tuning(at, service).startswith(found)
