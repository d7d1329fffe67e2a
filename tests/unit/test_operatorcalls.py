"""How often operators ran while a stack answered is told by the processes, before and after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

import finished_cell as given
from flagrelease.errors import DiedLater
from flagrelease.operatorcalls import Counting
from flagrelease.ports.clock import SystemClock
from flagrelease.ports.meter import Meter
from flagrelease.serving import ServeRequest


class Engine:
    """Serves; each time that it is asked, its processes have called that much."""

    def __init__(self, *told: dict[str, int] | Exception) -> None:
        self.told = list(told)
        self.asked = 0
        self.slept: list[float] = []
        self.notes: list[str] = []
        self.context: Any = SimpleNamespace(
            workspace=None,
            upstream={"kernels": given.kernels()},
            meter=Meter(SystemClock()),
            ports=SimpleNamespace(clock=SimpleNamespace(sleep=self.slept.append)),
            progress=SimpleNamespace(note=self.notes.append),
        )

    def execute(self, _argv: Any, *, seconds: float) -> tuple[int, str]:  # noqa: ARG002
        self.asked += 1
        called = self.told.pop(0)
        if isinstance(called, Exception):
            raise called
        return 0, "a vendor's words\n" + json.dumps({"called": called}, indent=1)

    @contextmanager
    def serve(self, _job: Any, _context: Any, _request: Any) -> Iterator[Any]:
        yield SimpleNamespace(running=self)

    def answer(self, counting: Counting, stack: Any = "flagos") -> None:
        image: Any = SimpleNamespace(runner="docker")
        weights: Any = None
        with counting(given.job(), self.context, ServeRequest(image=image, weights=weights, stack=stack)) as server:
            assert server.running is self


def test_calls_of_all_blocks_are_added_up_and_those_before_them_are_not() -> None:
    engine = Engine({"mm": 3}, {"mm": 10, "neg": 2}, {"mm": 100}, {"mm": 101})
    counting = Counting(engine.serve)
    assert counting.called is None
    engine.answer(counting)
    engine.answer(counting, "native")  # has no operators, and is not asked
    engine.answer(counting)
    assert counting.called == {"mm": 8, "neg": 2}
    assert len(engine.slept) == 2  # until the last calls are told


def test_that_none_was_called_is_told_as_that() -> None:
    engine = Engine({"mm": 3}, {"mm": 3})
    counting = Counting(engine.serve)
    engine.answer(counting)
    assert counting.called == {}


def test_a_cell_without_operators_is_not_asked() -> None:
    engine = Engine()
    del engine.context.upstream["kernels"]
    counting = Counting(engine.serve)
    engine.answer(counting)
    assert (counting.called, engine.asked) == (None, 0)


@pytest.mark.parametrize("told", [[DiedLater("the server ended")], [{"mm": 3}, DiedLater("the server ended")]])
def test_what_cannot_be_told_is_noted_and_costs_no_answer(told: list[Any]) -> None:
    engine = Engine(*told)
    counting = Counting(engine.serve)
    engine.answer(counting)
    assert counting.called is None
    assert engine.notes == ["how often operators ran cannot be told: the server ended"]


def test_a_server_that_ends_is_the_failure_and_is_not_asked_again() -> None:
    engine = Engine({"mm": 3})
    image: Any = SimpleNamespace(runner="docker")
    weights: Any = None
    with (
        pytest.raises(DiedLater),
        Counting(engine.serve)(given.job(), engine.context, ServeRequest(image=image, weights=weights, stack="flagos")),
    ):
        raise DiedLater("the server ended while it was in use")
    assert engine.asked == 1
