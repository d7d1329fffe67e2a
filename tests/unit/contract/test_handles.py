"""Stages read results by typed handles, and only those that they declare."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

import support.finished_cell as given
from flagrelease.contract.context import Context
from flagrelease.contract.handles import Finished, ResultOf, ResultUnavailable
from flagrelease.contract.job import Job
from flagrelease.contract.results import IMAGE, KERNELS, SMOKE, WEIGHTS, Smoke, Weights
from flagrelease.contract.stage import Stage
from flagrelease.run.cell_run import CellRun
from flagrelease.run.executors.inline import InlineExecutor
from flagrelease.stages import REMEDY, STAGES
from flagrelease.store.ledger import Entry
from support import toys
from support.contexts import Remembered, Shown, SleeplessClock, without_ports


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """That of a stage that reads weights and kernels, where kernels was skipped."""
    made = without_ports(tmp_path, SleeplessClock(), Shown(), weights=weights(), image=given.image())
    return replace(made, reads=(WEIGHTS, KERNELS))


def weights() -> Weights:
    return given.finished().result(WEIGHTS)


def entry(result: object = None, **changes: object) -> Entry:
    made = Entry(
        at="2026-01-01T00:00:00+00:00",
        run="0" * 12,
        cell="cpu/tiny",
        stage="weights",
        state="done",
        key="0" * 64,
        process="1@boot",
        result=msgspec.to_builtins(result),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_result_that_is_declared_is_given(context: Context) -> None:
    assert context.result(WEIGHTS) == weights()
    assert context.optional(WEIGHTS) == weights()


def test_the_result_of_a_skipped_stage_is_none_or_missed(context: Context) -> None:
    assert context.optional(KERNELS) is None
    with pytest.raises(ResultUnavailable, match="the stage kernels has no result"):
        context.result(KERNELS)


def test_a_result_that_is_not_declared_is_refused_although_it_is_there(context: Context) -> None:
    assert IMAGE in context.finished
    for ask in (context.result, context.optional):
        with pytest.raises(ResultUnavailable, match="image is used, but the stage declares in `reads`: weights, kern"):
            ask(IMAGE)


def test_a_stage_that_reads_what_it_does_not_declare_fails_as_a_defect(tmp_path: Path) -> None:
    def greedy(_job: Job, context: Context) -> toys.Made:
        return toys.Made(text=context.result(toys.FIRST).text)

    second = Stage(result=toys.SECOND, doing="reading", inputs=lambda _job: {}, run=greedy)
    session = replace(toys.session(tmp_path), stages=(toys.STAGES[0], second))
    run = CellRun(session, toys.jobs(tmp_path)["cpu/tiny"])
    InlineExecutor().execute([run])
    assert [one.status for one in run.outcomes] == ["done", "failed"]
    failure = run.outcomes[1].error
    assert failure is not None
    assert "first is used, but the stage declares in `reads`: nothing" in failure.why
    assert "this is a bug in flagrelease" in failure.hint


def test_a_result_of_another_type_is_refused() -> None:
    other: ResultOf[Smoke] = ResultOf("weights", Smoke)
    with pytest.raises(ResultUnavailable, match="weights made a Weights, not a Smoke"):
        given.finished().get(other)


def test_finished_stages_keep_their_order() -> None:
    assert [one.stage for one in given.finished()] == ["weights", "image", "smoke", "accuracy"]
    assert SMOKE in given.finished()
    assert SMOKE not in Finished()
    assert Finished().named("smoke") is None


def test_a_ledger_entry_has_a_result_where_this_version_can_read_it() -> None:
    assert WEIGHTS.of(entry(weights())) == weights()
    assert WEIGHTS.of(None) is None
    assert WEIGHTS.of(entry(weights(), state="failed")) is None
    assert WEIGHTS.of(entry({"folder": "m"})) is None
    with pytest.raises(msgspec.ValidationError):
        WEIGHTS.decode({"folder": "m"})


def test_every_stage_reads_stages_before_it() -> None:
    before: list[str] = []
    for stage in (*STAGES, REMEDY.stage):
        assert set(stage.read_names) <= set(before), stage.name
        before.append(stage.name)


def test_what_cells_share_is_had_again_by_its_type(tmp_path: Path) -> None:
    run = CellRun(toys.session(tmp_path), toys.jobs(tmp_path)["cpu/tiny"])
    for shared in (run, Remembered()):
        assert shared.recall("k", Weights) is None
        shared.remember("k", weights())
        assert shared.recall("k", Weights) == weights()
        with pytest.raises(msgspec.ValidationError):
            shared.recall("k", Smoke)
        shared.remember("k", None)
        assert shared.recall("k", Weights) is None
