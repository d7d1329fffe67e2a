"""Operator call counts: the difference of the status files after and before a block."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import support.finished_cell as given
from flagrelease.config.matrix import Stack
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.contract.results import WEIGHTS
from flagrelease.errors import DiedLater
from flagrelease.serving.operator_status import Counting
from flagrelease.serving.server import Served, ServeRequest
from support.contexts import Executing, Shown, SleeplessClock, served, without_ports

GOLDEN = Path(__file__).parents[2] / "support/golden"


class Engine:
    """A server whose status reports the next of `counts` at each request."""

    def __init__(self, root: Path, *counts: dict[str, int] | Exception, operators: bool = True) -> None:
        self.counts = list(counts)
        self.container = Executing(self.printed)
        self.clock, self.progress = SleeplessClock(), Shown()
        made = {"kernels": given.kernels()} if operators else {}
        self.context = without_ports(root, self.clock, self.progress, **made)

    @property
    def asked(self) -> int:
        return len(self.container.executed)

    def printed(self, _argv: Sequence[str]) -> str:
        called = self.counts.pop(0)
        if isinstance(called, Exception):
            raise called
        status = {**json.loads((GOLDEN / "effective.json").read_text()), "called": called}
        return "a vendor's words\n" + json.dumps(status, indent=1)

    @contextmanager
    def serve(self, _job: Job, _context: Context, _request: ServeRequest) -> Iterator[Served]:
        yield served(self.container)

    def answer(self, counting: Counting, stack: Stack = "flagos") -> None:
        weights = given.finished().result(WEIGHTS)
        request = ServeRequest(image=given.image(), weights=weights, stack=stack)
        with counting(given.job(), self.context, request) as server:
            assert server.running is self.container


def test_calls_of_all_blocks_are_added_up_and_those_before_them_are_not(tmp_path: Path) -> None:
    engine = Engine(tmp_path, {"mm": 3}, {"mm": 10, "neg": 2}, {"mm": 100}, {"mm": 101})
    counting = Counting(engine.serve)
    assert counting.called is None
    engine.answer(counting)
    engine.answer(counting, "native")  # has no operators, and is not asked
    engine.answer(counting)
    assert counting.called == {"mm": 8, "neg": 2}
    assert len(engine.clock.slept) == 2  # until the status files have the last calls


def test_no_calls_are_an_empty_count(tmp_path: Path) -> None:
    engine = Engine(tmp_path, {"mm": 3}, {"mm": 3})
    counting = Counting(engine.serve)
    engine.answer(counting)
    assert counting.called == {}


def test_a_cell_without_operators_is_not_asked(tmp_path: Path) -> None:
    engine = Engine(tmp_path, operators=False)
    counting = Counting(engine.serve)
    engine.answer(counting)
    assert (counting.called, engine.asked) == (None, 0)


@pytest.mark.parametrize("counts", [[DiedLater("the server ended")], [{"mm": 3}, DiedLater("the server ended")]])
def test_unavailable_counts_are_noted_and_cost_no_answer(counts: list[Any], tmp_path: Path) -> None:
    engine = Engine(tmp_path, *counts)
    counting = Counting(engine.serve)
    engine.answer(counting)
    assert counting.called is None
    assert engine.progress.notes == ["operator call counts are unavailable: the server ended"]


def test_a_server_that_ends_is_the_failure_and_is_not_asked_again(tmp_path: Path) -> None:
    engine = Engine(tmp_path, {"mm": 3})
    image, weights = given.image(), given.finished().result(WEIGHTS)
    with (
        pytest.raises(DiedLater),
        Counting(engine.serve)(given.job(), engine.context, ServeRequest(image=image, weights=weights, stack="flagos")),
    ):
        raise DiedLater("the server ended while it was in use")
    assert engine.asked == 1
