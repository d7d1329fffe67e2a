"""Scores from FlagEval: reported for both stacks, with the verdict INCONCLUSIVE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flagrelease.config.matrix import Baseline, Share
from flagrelease.contract.job import Job
from flagrelease.errors import ConfigError, EnvironmentFault
from flagrelease.evaluation import flageval_scores
from flagrelease.evaluation.harnesses.flageval import FlagEval, Pace
from flagrelease.ports.retry import Backoff
from flagrelease.stages.accuracy import stage as accuracy
from support.evaluated import World, world_of
from support.flageval_stand_in import SCORES, Platform, platform

QUICK = Pace(polls=(), then=0.01, watch=0.01, backoff=Backoff(first=0.02, budget=0.3))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return world_of(tmp_path)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    with platform(course=["S"]) as one:
        monkeypatch.setenv("FLAGRELEASE_FLAGEVAL", one.url)
        monkeypatch.setenv("FLAGRELEASE_FLAGEVAL_ENDPOINT", "http://chip.example:{port}/v1/chat/completions")
        monkeypatch.setattr(flageval_scores, "FlagEval", lambda url, token: FlagEval(url, token, QUICK))
        yield one


def job(world: World, **changes: Any) -> Job:
    """A job whose only benchmark is evaluated by FlagEval; `changes` apply to the benchmark."""
    made = world.job()
    benchmark = replace(made.matrix.benchmarks["mmlu-sample"], **{"harness": "flageval", **changes})
    return replace(made, matrix=replace(made.matrix, benchmarks={"mmlu-sample": benchmark}))


def test_both_stacks_are_scored_without_a_verdict(world: World, service: Platform) -> None:
    result = world.evaluate(job(world))
    (row,) = result.benchmarks
    assert world.started == ["native", "flagos"]
    assert sorted(service.models.values()) == ["smollm2-135m-cpu-flagos", "smollm2-135m-cpu-origin"]
    assert (row.metric, row.n, row.baseline, row.candidate) == ("MMLU_5fewshot_@avg1", 14042, 0.6992, 0.6992)
    assert (row.difference, row.interval90) == (0.0, None)
    assert row.verdict == result.verdict == "INCONCLUSIVE"
    assert "FlagEval reports scores but no answers" in result.reason
    assert result.questions_asked == 0


def test_the_platform_gets_the_public_url_of_our_endpoint(world: World, service: Platform) -> None:
    world.evaluate(job(world))
    infos = [body["eval_infos"][0] for _, path, body in service.calls if path == "/evaluation"]
    ports = [world.endpoints[stack].base_url.rpartition(":")[2].partition("/")[0] for stack in ("native", "flagos")]
    assert [info["eval_url"] for info in infos] == [f"http://chip.example:{one}/v1/chat/completions" for one in ports]
    assert infos[0]["gen_kwargs"] == "temperature=0.0,top_p=1.0,max_gen_toks=256"


def test_a_stored_baseline_is_not_evaluated_again(world: World, service: Platform) -> None:
    world.evaluate(job(world))
    world.started.clear()
    service.scores = {**SCORES, "MMLU_5fewshot_@avg1": 0.6}
    (row,) = world.evaluate(job(world)).benchmarks
    assert world.started == ["flagos"]
    assert row.baseline == 0.6992
    assert row.difference == pytest.approx(0.6 - 0.6992)
    assert row.verdict == "INCONCLUSIVE"  # not FAIL either


def test_a_missing_baseline_is_reported(world: World, service: Platform) -> None:
    made = job(world)
    cell = replace(made.cell, baseline=Baseline(chip="nvidia-h100"))
    (row,) = world.evaluate(replace(made, cell=cell)).benchmarks
    assert (row.baseline, row.difference) == (None, None)
    assert row.reason.startswith("no baseline")


def test_other_benchmarks_are_asked_by_their_own_harness(world: World, service: Platform) -> None:
    made = job(world)
    benchmarks = {"theirs": made.matrix.benchmarks["mmlu-sample"], **world.job().matrix.benchmarks}
    profile = replace(made.cell.profile, benchmarks={"theirs": Share(), "mmlu-sample": Share()})
    made = replace(made, matrix=replace(made.matrix, benchmarks=benchmarks), cell=replace(made.cell, profile=profile))
    result = world.evaluate(made)
    assert {row.benchmark: row.verdict for row in result.benchmarks} == {
        "mmlu-sample": "PASS",
        "theirs": "INCONCLUSIVE",
    }
    assert result.verdict == "INCONCLUSIVE"


def test_a_benchmark_that_flageval_does_not_have(world: World, service: Platform) -> None:
    with pytest.raises(ConfigError, match="FlagEval has no IFEval"):
        world.evaluate(job(world, title="IFEval"))


@pytest.mark.parametrize("name", ["FLAGRELEASE_FLAGEVAL", "FLAGRELEASE_FLAGEVAL_ENDPOINT"])
def test_a_missing_variable_is_named_before_anything_is_served(
    name: str, world: World, service: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(EnvironmentFault) as refused:
        world.evaluate(job(world))
    assert f"{name} is not set" in refused.value.line()
    assert world.started == []


def test_the_harness_is_part_of_the_key(world: World) -> None:
    assert accuracy.inputs(job(world)) != accuracy.inputs(world.job())
