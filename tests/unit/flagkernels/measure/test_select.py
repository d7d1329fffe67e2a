"""Choosing operators by measurements, falling through to the native kernel, and naming culprits."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the chip side needs torch")

from flagkernels.attribute import attribute as court  # noqa: E402
from flagkernels.errors import NothingToDo  # noqa: E402
from flagkernels.measure import bench, roofline, timing  # noqa: E402
from flagkernels.measure.figures import Figure, figures_of  # noqa: E402
from flagkernels.measure.select import coverage, described, express, winning  # noqa: E402
from flagkernels.measure.served import Measured  # noqa: E402
from flagkernels.measure.timing import Clock, Ratio, ratio  # noqa: E402
from flagkernels.operators.calls import Call, TensorSpec, shape_class  # noqa: E402
from flagkernels.operators.listing import Operators  # noqa: E402
from flagkernels.operators.override import installed  # noqa: E402
from flagkernels.operators.registry import Planted  # noqa: E402
from support.small_traces import spec, trace_of  # noqa: E402

SMALL, BIG = "bf16[8,96] bf16[8,96]", "bf16[32,96] bf16[32,96]"
FOUND = trace_of(
    *((op, Call(f"{op}.Tensor", (spec(rows, 96), spec(rows, 96)))) for op in ("add", "mul") for rows in (8, 32)),
    ("silu", Call("silu", (spec(8, 96),))),
)


def figure(operator: str, where: str, median: float, spread: float = 0.01) -> Figure:
    return Figure(
        operator=operator,
        shape_class=where,
        call={},
        counts={"decode:1x8": 10},
        native=median * 1e-6,
        candidate=1e-6,
        ratio=median,
        low=median - spread,
        high=median + spread,
        bytes=1,
        operations=0,
    )


class Bench:
    """A served model whose speed is the product of its operators' factors."""

    def __init__(self, factors: dict[str, float], spread: float = 0.004, idle: tuple[str, ...] = ()) -> None:
        self.factors, self.spread, self.idle = factors, spread, idle

    def compare(self, chosen: Operators) -> Measured:
        speed = math.prod(self.factors[name] for name in chosen.include)
        ratios = {"decode:1x512": Ratio(speed, speed - self.spread, speed + self.spread, 21)}
        return Measured(ratios, frozenset(chosen.include).difference(self.idle))


def test_a_class_stays_native_unless_the_operator_certainly_wins() -> None:
    figures = [figure("add", SMALL, 1.3), figure("add", BIG, 0.8), figure("mul", SMALL, 1.005, spread=0.01)]
    chosen, gains = winning(FOUND, figures)
    assert chosen.include == ("add",)
    assert chosen.native == {"add": ("*", f"!{SMALL}")}
    assert gains["add"]["decode:1x8"] == pytest.approx(10 * 0.3e-6)
    assert gains["add"]["decode:1x8 (stays native)"] == pytest.approx(-10 * 0.2e-6)


def test_express_takes_out_what_slows_the_served_model_down() -> None:
    figures = [figure(op, where, 1.2) for op in ("add", "mul") for where in (SMALL, BIG)]
    choice = express(FOUND, figures, Bench({"add": 1.05, "mul": 0.9}))
    assert choice.operators.include == ("add",)
    told = [(step.decision, step.out) for step in choice.steps]
    assert told == [("slower at decode:1x512", "mul"), ("faster", ""), ("accepted", "")]


def test_express_drops_the_slowest_until_the_set_reaches_the_floor() -> None:
    figures = [figure(op, SMALL, 1.2) for op in ("add", "mul", "silu")]
    # None is certainly slower alone; together they fall below the floor.
    choice = express(FOUND, figures, Bench({"add": 0.99, "mul": 0.995, "silu": 1.001}, spread=0.02), floor=0.975)
    assert choice.operators.include == ("silu",) or "add" not in choice.operators.include
    assert choice.steps[-1].decision == "accepted"
    assert min(r.low for r in choice.steps[-1].ratios.values()) >= 0.975


def test_express_keeps_the_least_slow_operator_where_it_holds_the_floor() -> None:
    figures = [figure(op, SMALL, 1.2) for op in ("add", "mul", "silu")]
    served = Bench({"add": 0.96, "mul": 0.99, "silu": 0.95})
    choice = express(FOUND, figures, served)
    assert choice.operators.include == ("mul",)
    assert choice.steps[-2].decision == "the least slow one: slower at decode:1x512"
    with pytest.raises(NothingToDo, match="every operator makes the served model slower"):
        express(FOUND, figures, served, floor=0.99)


def test_the_least_slow_operator_is_one_that_runs_at_these_loads() -> None:
    figures = [figure(op, SMALL, 1.2) for op in ("add", "mul")]
    factors = {"add": 0.985, "mul": 0.99}
    choice = express(FOUND, figures, Bench(factors, 0.001, idle=("mul",)))
    assert choice.operators.include == ("add",)
    idle = next(step for step in choice.steps if step.out == "mul")
    assert idle.decision == "slower at decode:1x512, where all its calls are left to the vendor's kernels"
    with pytest.raises(NothingToDo, match="every operator makes the served model slower"):
        express(FOUND, figures, Bench(factors, 0.001, idle=("add", "mul")))


def test_express_says_when_nothing_wins() -> None:
    with pytest.raises(NothingToDo, match="no operator is certainly faster"):
        express(FOUND, [figure("add", SMALL, 0.9)], Bench({}))
    with pytest.raises(NothingToDo, match="slower"):
        express(FOUND, [figure("add", SMALL, 1.2)], Bench({"add": 0.7}))


def test_coverage_takes_all_that_are_correct() -> None:
    choice = coverage(FOUND, ["mul", "add"], Bench({"add": 0.5, "mul": 1.0}))
    assert choice.operators.include == ("add", "mul")
    assert choice.steps[0].ratios["decode:1x512"].median == 0.5


def test_gains_are_told_an_operator_a_line() -> None:
    gains = winning(FOUND, [figure("add", SMALL, 1.3), figure("add", BIG, 0.8)])[1]
    assert described(gains) == ["add: +3.0 µs at decode:1x8, -2.0 µs at decode:1x8 (stays native)"]


def test_an_override_falls_through_at_its_native_classes() -> None:
    def marked(x: Any, y: Any) -> Any:
        return torch.full_like(x, 7.0)

    x, y = torch.ones(8, 96, dtype=torch.bfloat16), torch.ones(32, 96, dtype=torch.bfloat16)
    chosen = Operators(include=("mul",), native={"mul": (BIG,)}, static=(96,))
    with installed(Planted({"mul": {"mul.Tensor": marked}}), chosen, torch.device("cpu")) as calls:
        assert float((x * x)[0, 0]) == 7
        assert float((y * y)[0, 0]) == 1
        assert float((y * 2.0)[0, 0]) == 7  # another class: one tensor and a number
        assert calls == {"mul": 2}
    assert float((x * x)[0, 0]) == 1


def test_a_class_that_nobody_measured_stays_native() -> None:
    x, y = torch.ones(8, 96, dtype=torch.bfloat16), torch.ones(64, 96, dtype=torch.bfloat16)
    chosen, _ = winning(FOUND, [figure("mul", SMALL, 1.3)])
    marked = Planted({"mul": {"mul.Tensor": lambda x, _: torch.full_like(x, 7.0)}})
    with installed(marked, chosen, torch.device("cpu")):
        assert float((x * x)[0, 0]) == 7
        assert float((y * y)[0, 0]) == 1


def test_numbers_keep_their_promotion_when_falling_through() -> None:
    every = tuple(
        shape_class(Call("mul.Tensor", (TensorSpec(shape, (1,) * len(shape), dtype),)), frozenset())
        for shape in ((), (4,))
        for dtype in ("bfloat16", "int64", "float32")
    )
    chosen = Operators(include=("mul",), native={"mul": every})
    cases = [
        (torch.ones(shape, dtype=dtype), number)
        for shape in ((), (4,))
        for dtype in (torch.bfloat16, torch.int64, torch.float32)
        for number in (2, 2.5, True)
    ]
    expected = [(a * b, b * a) for a, b in cases]
    with installed(Planted({"mul": {"mul.Tensor": lambda *_: 1 / 0}}), chosen, torch.device("cpu")):
        got = [(a * b, b * a) for a, b in cases]
    for pair, native in zip(got, expected, strict=True):
        for one, other in zip(pair, native, strict=True):
            assert (one.dtype, one.tolist()) == (other.dtype, other.tolist())


def test_the_interval_of_paired_ratios_covers_and_narrows() -> None:
    generator = random.Random(1)
    covered = 0
    for _ in range(300):
        drift = [generator.uniform(0.5, 2) for _ in range(21)]  # shared by both sides of a pair
        native = [d * 1.1 * math.exp(generator.gauss(0, 0.05)) for d in drift]
        other = [d * math.exp(generator.gauss(0, 0.05)) for d in drift]
        found = ratio(native, other)
        covered += found.low <= 1.1 <= found.high
        assert found.low <= found.median <= found.high
    assert covered >= 280  # 95 % asked for
    assert ratio([1.0], [2.0]) == Ratio(0.5, 0.5, 0.5, 1)


class Chip:
    """A device that works for `seconds` at each run, while the host continues."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.free = seconds, 0.0

    def run(self) -> None:
        self.free = max(time.perf_counter(), self.free) + self.seconds

    def synchronize(self) -> None:
        time.sleep(max(0.0, self.free - time.perf_counter()))

    def get_device_name(self, _: object) -> str:
        return "a chip"


@pytest.mark.parametrize(
    ("chip_s", "host_s", "least", "most"), [(0.002, 0.010, 0.010, 0.012), (0.010, 0.002, 0.010, 0.012)]
)
def test_the_longer_of_host_and_chip_determines_the_time(
    chip_s: float, host_s: float, least: float, most: float
) -> None:
    """A loaded machine slows the host's part, so it is measured until one measurement is undisturbed."""
    clock, chip = Clock(torch.device("cpu")), Chip(chip_s)
    clock.module = chip
    found, deadline = float("inf"), time.monotonic() + 120
    while found >= most and time.monotonic() < deadline:
        found = min(found, clock.in_a_row(chip.run, 8, host_s=host_s))
    assert least <= found < most
    clock.module = None
    assert clock.in_a_row(lambda: time.sleep(0.001), 8, host_s=1.0) < 0.5


def test_the_least_work_of_a_call() -> None:
    column = TensorSpec((96, 160), (1, 96), "bfloat16")
    result = torch.empty(32, 160, dtype=torch.bfloat16)
    assert roofline.work(Call("mm", (spec(32, 96), column)), (result,)) == (
        2 * (32 * 96 + 96 * 160 + 32 * 160),
        2 * 32 * 96 * 160,
    )
    table, index = spec(5000, 96), spec(2, 8, dtype="int64")
    rows = torch.empty(2, 8, 96, dtype=torch.bfloat16)
    into = Call("mm.out", (spec(32, 96), column), (("out", spec(32, 160)),))
    assert roofline.work(into, (result,)) == roofline.work(Call("mm", (spec(32, 96), column)), (result,))
    assert roofline.work(Call("embedding", (table, index)), (rows,))[0] == 16 * 8 + 2 * 16 * 96 * 2
    picked = Call("index.Tensor", (table, (index,)))
    assert roofline.work(picked, (rows,)) == roofline.work(Call("embedding", (table, index)), (rows,))
    expanded = TensorSpec((4, 96), (0, 1), "float32")
    assert roofline.work(Call("neg", (expanded,)), ())[0] == 96 * 4


def test_operators_are_measured_against_the_native_kernel_in_their_own_process(tmp_path: Path) -> None:
    ceilings = roofline.measure(torch.device("cpu"))
    assert ceilings.bandwidth > 1e8
    figures = bench.bench(
        FOUND,
        ["silu"],
        tmp_path / "figures.jsonl",
        ceilings=ceilings,
        logs=tmp_path,
        method=bench.Method(source="support.flagkernels_native:OPERATORS", device="cpu", pairs=7),
    )
    assert [f.shape_class for f in figures] == ["bf16[8,96]"]
    assert figures[0].native > 0
    assert figures[0].share == pytest.approx(figures[0].floor / figures[0].candidate)  # type: ignore[operator]
    assert list(figures_of(tmp_path / "figures.jsonl")) == figures


def test_a_crash_while_measuring_costs_that_operator_only(tmp_path: Path) -> None:
    limits = replace(roofline.measure(torch.device("cpu")), bandwidth=1.0)
    method = bench.Method(source="support.flagkernels_faults:ABORTS", device="cpu", pairs=3)
    assert bench.bench(FOUND, ["add"], tmp_path / "f.jsonl", ceilings=limits, logs=tmp_path, method=method) == []


class Text:
    """Answers of a text of 400 tokens: native is 0.01 away from float32, each operator by `harm`."""

    def __init__(self, harm: Callable[[frozenset[str]], float]) -> None:
        self.harm, self.asked = harm, list[frozenset[str]]()
        generator = random.Random(3)
        self.exact = [generator.uniform(-5, 0) for _ in range(400)]
        self.noise = [generator.gauss(0, 0.01) for _ in range(400)]
        self.generator = generator

    def native(self) -> Sequence[float]:
        return [x + e for x, e in zip(self.exact, self.noise, strict=True)]

    def reference(self) -> Sequence[float]:
        return self.exact

    def with_operators(self, names: frozenset[str]) -> Sequence[float]:
        self.asked.append(names)
        harm = self.harm(names)
        if math.isinf(harm):
            raise RuntimeError("illegal memory access")
        return [x + self.generator.gauss(0, 0.01) - harm for x in self.exact]

    def alive(self) -> bool:
        return True


OPS = ("add", "cat", "mm", "mul", "silu")


def test_one_culprit_is_named_with_its_numbers() -> None:
    found = court.attribute(Text(lambda names: 0.05 if "mm" in names else 0.0), OPS)
    assert (found.culprits, found.clean, len(found.rounds)) == (("mm",), True, 1)
    named = next(m for m in found.rounds[0].measurements if m.operators == ("mm",))
    assert named.guilty
    assert named.shift == pytest.approx(-0.05, abs=0.005)
    assert named.excess is not None
    assert named.excess > 3
    assert set(found.remaining) == set(OPS) - {"mm"}


def test_two_culprits_take_two_rounds() -> None:
    harms = {"mm": 0.05, "cat": 0.1}
    found = court.attribute(Text(lambda names: sum(harms.get(name, 0.0) for name in names)), OPS)
    assert found.culprits == ("cat", "mm")
    assert found.clean


def test_a_pair_is_found_if_no_operator_is_guilty_alone() -> None:
    found = court.attribute(Text(lambda names: 0.05 if {"mm", "silu"} <= names else 0.0), OPS)
    assert found.culprits in {("mm",), ("silu",)}
    assert {found.rounds[0].culprit, found.rounds[0].partner} == {"mm", "silu"}
    assert found.clean


def test_an_operator_that_dies_is_a_culprit() -> None:
    found = court.attribute(Text(lambda names: math.inf if "mul" in names else 0.0), OPS)
    assert found.culprits == ("mul",)
    assert "illegal memory access" in found.rounds[0].measurements[3].note


def test_equal_quality_has_no_culprit() -> None:
    found = court.attribute(Text(lambda _: 0.0), OPS)
    assert (found.culprits, found.clean, found.rounds) == ((), True, ())


def test_rounds_are_limited_and_what_is_measured_is_kept(tmp_path: Path) -> None:
    text = Text(lambda names: 0.05 * len(names))
    found = court.attribute(text, OPS, rounds=2, record=tmp_path / "record.jsonl")
    assert (len(found.rounds), found.clean) == (2, False)
    asked = len(text.asked)
    again = court.attribute(text, OPS, rounds=2, record=tmp_path / "record.jsonl")
    assert (again, len(text.asked)) == (found, asked)


def test_the_clock_takes_pairs_in_turns() -> None:
    order: list[str] = []
    clock = timing.Clock(torch.device("cpu"))
    first, second = timing.paired(clock, lambda: order.append("a"), lambda: order.append("b"), pairs=4)
    assert len(first) == len(second) == 4
    assert "".join(order[-8:]) == "abbaabba"
