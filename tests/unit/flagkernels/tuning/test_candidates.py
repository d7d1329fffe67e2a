"""The rules for eliminating candidates, and for equal compilations."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from flagkernels.tuning.candidates import (
    Launch,
    Stand,
    compilations,
    finalists,
    hopeless,
    least_behind,
    nearest,
    stand_in,
    survivors,
)


def config(**sizes: int) -> Any:
    text = ", ".join(f"{name}: {value}" for name, value in sizes.items())

    class Config:
        kwargs = sizes
        num_stages = 2
        pre_hook = None

        def all_kwargs(self) -> dict[str, int]:
            return dict(sizes)

        def __str__(self) -> str:
            return text

    return Config()


def kernel(name: str = "k", constants: tuple[int, ...] = ()) -> Any:
    return SimpleNamespace(cache_key="source", __name__=name, constexprs=constants, arg_names=["a", "m", "n", "flag"])


def launch(m: Any, *, pointer: int = 0, n: Any = 64, fn: Any = None, dtype: str = "bf16") -> Launch:
    tensor = Stand(dtype, (m, n), (n, 1), pointer)
    return Launch(fn or kernel(), (tensor, m, n), {"grid": (1,), "warmup": False}, (config(B=16), config(B=32)))


def count(*launches: Launch) -> int:
    return len(compilations(launches, lambda launch: launch.configs))


def test_one_compilation_serves_all_sizes_that_triton_does_not_distinguish() -> None:
    assert count(launch(64), launch(4096), launch(16)) == 2


@pytest.mark.parametrize(
    "other",
    [
        launch(1),  # one is a constant to Triton
        launch(7),  # not divisible by 16
        launch(2**31),  # a 64-bit argument
        launch(64, pointer=8),  # an unaligned address
        launch(64, dtype="f16"),
        launch(64, fn=kernel("other")),
    ],
    ids=["one", "indivisible", "wide", "unaligned", "dtype", "kernel"],
)
def test_what_triton_specialises_on_is_another_compilation(other: Launch) -> None:
    assert count(launch(64), other) == 4


def test_constants_count_by_value() -> None:
    fn = kernel(constants=(1,))
    assert count(launch(64, fn=fn), launch(128, fn=fn)) == 4


def test_the_result_of_a_heuristic_counts() -> None:
    even = SimpleNamespace(fn=kernel(), values={"EVEN": lambda known: known["m"] % known["B"] == 0})
    assert count(launch(64, fn=even), launch(128, fn=even)) == 2
    assert count(launch(64, fn=even), launch(48, fn=even)) == 3  # 48 is even to 16, odd to 32


def test_the_heaviest_compilation_comes_first() -> None:
    assert [str(job.config) for job in compilations([launch(64)], lambda launch: launch.configs)] == ["B: 32", "B: 16"]


def test_the_nearest_key_is_counted_in_doublings_and_shares_all_other_parts() -> None:
    key = (1024, 4096, "bf16")
    others = [(64, 4096, "bf16"), (2048, 4096, "bf16"), (1024, 4096, "f16"), (1024, 4096)]
    assert nearest(key, others) == (2048, 4096, "bf16")
    assert nearest(key, [(1024, 4096, "f16")]) is None
    assert nearest(key, []) is None


def test_a_candidate_is_hopeless_only_by_a_neighbour_at_most_one_doubling_away() -> None:
    times = {"quick": 1.0, "slow": 3.1, "fair": 2.9, "impossible": math.inf}
    assert hopeless((128,), {(64,): times}) == {"slow", "impossible"}
    assert hopeless((256,), {(64,): times}) == set()
    assert hopeless((128,), {(64,): {"impossible": math.inf}}) == set()
    assert hopeless((128,), {}) == set()


def test_finalists_are_the_close_ones_and_those_that_ran() -> None:
    assert finalists({"a": 1.0, "b": 1.1, "c": 1.2, "d": math.inf}) == ["a", "b"]
    assert finalists({"d": math.inf}) == []
    assert len(finalists({str(n): 1.0 for n in range(99)})) == 16


def test_survivors_are_within_three_per_cent() -> None:
    assert survivors({"a": 1.0, "b": 1.029, "c": 1.031}) == ["a", "b"]


def test_the_least_behind_is_chosen_over_all_calls_and_not_for_the_largest_alone() -> None:
    largest, smallest = {"a": 1.00, "b": 1.02}, {"a": 1.37, "b": 1.00}
    assert least_behind([largest]) == "a"
    assert least_behind([largest, smallest]) == "b"


def test_a_stand_in_keeps_what_triton_reads() -> None:
    real = SimpleNamespace(
        dtype=SimpleNamespace(itemsize=2),
        shape=(3, 4),
        stride=lambda: (8, 1),
        data_ptr=lambda: 4096 + 6,
        device="cuda:0",
    )
    stand = stand_in(real)
    assert (stand.dtype, stand.shape, stand.stride(), stand.stride(0)) == (real.dtype, (3, 4), (8, 1), 8)
    assert stand.data_ptr() % 16 == 6
    assert not stand.is_contiguous()
    assert (stand.numel(), stand.dim(), stand.size(1), stand.element_size()) == (12, 2, 4, 2)
    assert stand_in(17) == 17
