"""Attempts at one question share a budget of error."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flagrelease.contract.results import IMAGE, WEIGHTS
from flagrelease.verdict.attempts import level
from flagrelease.verdict.types import ALPHA, BASELINE_WEIGHT
from support import finished_cell
from support.contexts import after
from support.evaluated import World, answering, world_of


@pytest.fixture
def world(tmp_path: Path) -> World:
    return world_of(tmp_path)


def seen(world: World, **changes: Any) -> list[tuple[int, str]]:
    (score,) = world.run(**changes).benchmarks
    return [(attempt.number, attempt.verdict) for attempt in score.attempts]


def test_all_levels_together_are_alpha() -> None:
    assert level(1) == pytest.approx(0.9 * ALPHA)
    assert sum(map(level, range(1, 60))) == pytest.approx(ALPHA)
    assert all(level(number + 1) < level(number) for number in range(1, 20))


def test_the_same_answers_are_the_same_attempt(world: World) -> None:
    assert seen(world) == [(1, "PASS")]
    assert seen(world) == [(1, "PASS")]


def test_other_answers_are_a_further_attempt_at_a_lower_level_and_all_are_listed(world: World) -> None:
    world.stacks["flagos"] = answering(lambda n: n % 6 == 1)
    assert seen(world) == [(1, "FAIL")]
    world.stacks["flagos"] = answering(lambda n: n % 3 > 0)
    (score,) = world.run().benchmarks
    assert [attempt.level for attempt in score.attempts] == [level(1), level(2)]
    assert [attempt.verdict for attempt in score.attempts] == ["FAIL", score.verdict]


def test_another_image_of_the_same_software_stays_in_the_lineage(world: World) -> None:
    """As an image that attribution has changed does."""
    world.stacks["flagos"] = answering(lambda n: n % 6 == 1)
    world.run()
    world.stacks["flagos"] = answering(lambda n: n % 3 > 0)
    made = finished_cell.finished()
    image = replace(made.result(IMAGE), digest="sha256:" + "9" * 64)
    context = after(replace(world.context(), finished=type(made)()), weights=made.result(WEIGHTS), image=image)
    (score,) = world.evaluate(world.job(), context).benchmarks
    assert [(attempt.number, attempt.image == image.digest) for attempt in score.attempts] == [(1, False), (2, True)]


def test_other_software_is_another_lineage(world: World) -> None:
    world.stacks["flagos"] = answering(lambda n: n % 6 == 1)
    world.run()
    world.stacks["flagos"] = answering(lambda n: n % 3 > 0)
    job = world.job()
    components = replace(job.cell.chip.components, flagscale="9.9.9")
    job = replace(job, cell=replace(job.cell, chip=replace(job.cell.chip, components=components)))
    (score,) = world.evaluate(job).benchmarks
    assert [(attempt.number, attempt.verdict) for attempt in score.attempts] == [(1, "PASS")]


def test_a_kept_baseline_lowers_the_bound_of_pass_and_not_the_interval(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    world.stacks = {"native": answering(lambda n: n % 3 > 0), "flagos": answering(lambda n: n % 3 > 0)}
    world.evaluate(world.sampled(vendor="nvidia"))
    (path,) = [
        file
        for file in (tmp_path / "evidence").rglob("*")
        if file.is_file() and b'"baseline_weight"' in file.read_bytes()
    ]
    (design,) = json.loads(path.read_text())["design"].values()
    assert (design["reference"], design["alpha"], design["baseline_weight"]) == (True, level(1), BASELINE_WEIGHT)
