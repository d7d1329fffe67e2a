"""The accuracy stage on a real container whose engine ends in the middle of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest

import support.served_cell as given
from flagrelease.config.matrix import Benchmark, Profile, Share
from flagrelease.contract import results
from flagrelease.contract.job import Job
from flagrelease.errors import DiedLater
from flagrelease.evaluation.datasets import write_manifest
from flagrelease.ports.container_runner import WORKSPACE_LABEL
from flagrelease.ports.docker.engine import Engine
from flagrelease.stages.accuracy import stage as accuracy
from flagrelease.verdict.samples import read_samples

pytestmark = pytest.mark.integration

QUESTIONS = 60


@pytest.fixture(scope="module")
def image(engine: Engine, base: str, own_registry: str) -> Iterator[results.Image]:
    with given.engine_image(engine, base, f"{own_registry}/letters", "letter_engine.py") as pushed:
        yield pushed


def job(root: Path) -> Job:
    data = root / "data"
    data.mkdir()
    rows = [{"question": f"{n}?", "choices": ["a", "b", "c", "d"], "answer": n % 2} for n in range(QUESTIONS)]
    (data / "letters.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_manifest(data)
    benchmark = Benchmark(title="Letters", task="multiple-choice", data="data://letters.jsonl", license="none")
    one = replace(given.cell(), profile=Profile(benchmarks={"letters": Share()}))
    made = given.job(one)
    return replace(
        made, matrix=replace(made.matrix, benchmarks={**made.matrix.benchmarks, "letters": benchmark}), data_dir=data
    )


def test_an_engine_that_ends_costs_only_the_answers_it_did_not_give(
    engine: Engine, image: results.Image, tmp_path: Path
) -> None:
    limit = tmp_path / "weights" / "none" / "die-after"
    limit.parent.mkdir(parents=True)
    limit.write_text("25")
    what = job(tmp_path)
    context = given.context(tmp_path, runner=engine, image=image, weights=given.weights())
    with pytest.raises(DiedLater) as caught:
        accuracy.run(what, context)
    assert "its process ended with 9" in caught.value.why
    assert "illegal memory access" in caught.value.detail
    (unfinished,) = (tmp_path / "work").rglob("samples.jsonl")
    kept = read_samples(unfinished)
    assert len(kept) == 25
    assert all(sample.error is None for sample in kept)

    limit.unlink()
    result = accuracy.run(what, context)
    assert result.questions_asked == 2 * QUESTIONS - 25
    assert (result.verdict, result.benchmarks[0].baseline, result.benchmarks[0].candidate) == ("PASS", 0.5, 0.5)
    baseline = next(one for one in result.evidence if one.name == "accuracy/baseline.samples.jsonl")
    assert read_samples(context.evidence.path(baseline))[:25] == kept
    label = f"{WORKSPACE_LABEL}={tmp_path.resolve()}"
    assert docker.from_env().containers.list(all=True, filters={"label": label}) == []
