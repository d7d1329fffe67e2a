"""The speed stage on real containers: both stacks up, one measured at a time, nothing left; and an engine that ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest

import support.served_cell as given
from flagrelease.config.matrix import Profile, Traffic
from flagrelease.contract import results
from flagrelease.contract.job import Job
from flagrelease.errors import DiedLater
from flagrelease.ports.container_runner import WORKSPACE_LABEL
from flagrelease.ports.docker.engine import Engine
from flagrelease.stages.speed import stage as speed

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def image(engine: Engine, base: str, own_registry: str) -> Iterator[results.Image]:
    with given.engine_image(engine, base, f"{own_registry}/paced", "paced_engine.py") as pushed:
        yield pushed


def job() -> Job:
    traffic = Traffic(input=16, output=8, concurrency=(1, 4), requests=2)
    one = given.cell()
    return given.job(replace(one, profile=Profile(benchmarks=one.profile.benchmarks, speed=(traffic,))))


def paced(root: Path, **options: float) -> None:
    """Engine options, passed through the model's folder."""
    path = root / "weights" / "none" / "pace.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(options))


@pytest.mark.parametrize(
    ("slower", "verdict"),
    [(1.0, "PASS"), pytest.param(3.0, "FAIL", marks=pytest.mark.slow)],  # a second measurement
)
def test_the_served_stacks_are_compared(
    engine: Engine, image: results.Image, tmp_path: Path, slower: float, verdict: str
) -> None:
    paced(tmp_path, each=0.02, slower=slower)
    context = given.context(tmp_path, runner=engine, image=image, weights=given.weights())
    result = speed.run(job(), context)
    assert result.verdict == verdict, result.reason
    assert [point.concurrency for point in result.points] == [1, 4]
    assert all(point.starts >= 3 for point in result.points)
    assert all(side.cpu_s is not None for point in result.points for side in (point.baseline, point.candidate))
    assert result.other_work is not None
    assert result.points[0].baseline.tpot_s.median == pytest.approx(0.02, rel=0.5)
    assert result.points[0].ratio == pytest.approx(1 / slower, rel=0.25)
    assert result.points[1].candidate.output_tokens_per_s > 2 * result.points[0].candidate.output_tokens_per_s
    assert _left(tmp_path) == []


def test_an_engine_that_ends_under_load_is_told_with_its_last_words(
    engine: Engine, image: results.Image, tmp_path: Path
) -> None:
    paced(tmp_path, each=0.005, die_after=15)
    context = given.context(tmp_path, runner=engine, image=image, weights=given.weights())
    with pytest.raises(DiedLater) as caught:
        speed.run(job(), context)
    assert "its process ended with 9" in caught.value.why
    assert "illegal memory access" in caught.value.detail
    assert _left(tmp_path) == []


def _left(root: Path) -> list[object]:
    label = f"{WORKSPACE_LABEL}={root.resolve()}"
    return list(docker.from_env().containers.list(all=True, filters={"label": label}))
