"""The accuracy stage: baseline made, kept and used again; verdicts; evidence; what it does without a baseline.

The served image is stood in for by loopback endpoints, one for each stack; all else is real.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flagrelease.config.matrix import Baseline
from flagrelease.contract import code_version, results
from flagrelease.contract.job import Job
from flagrelease.contract.stage import keys
from flagrelease.errors import ConfigError, SmokeFailed
from flagrelease.evaluation.datasets import write_manifest
from flagrelease.stages.accuracy import stage as accuracy
from flagrelease.store.evidence import EvidenceStore
from flagrelease.verdict.compare import compare_main
from support import finished_cell
from support.contexts import after
from support.endpoints import Said
from support.evaluated import QUESTIONS, World, answering, world_of


@pytest.fixture
def world(tmp_path: Path) -> World:
    return world_of(tmp_path)


def test_both_stacks_answer_the_same_questions_and_are_compared(world: World) -> None:
    result = world.run()
    (score,) = result.benchmarks
    assert world.started == ["native", "flagos"]
    assert world.endpoints["native"].asked == world.endpoints["flagos"].asked
    assert set(world.endpoints["native"].asked.values()) == {1}
    assert (score.n, score.baseline, score.candidate, score.difference) == (QUESTIONS, 2 / 3, 2 / 3, 0.0)
    assert score.metric == "MMLU_0fewshot_@avg1"
    assert score.partial == "72 of 14,042 questions"
    assert score.interval90 is not None
    assert score.verdict == result.verdict == "PASS"
    assert result.baseline_name == "native on cpu"
    assert result.questions_asked == 2 * QUESTIONS
    assert len(result.baseline_key) == 64


def test_a_damaged_stack_fails(world: World) -> None:
    world.stacks["flagos"] = answering(lambda n: n % 6 == 1)
    result = world.run()
    assert result.verdict == "FAIL"
    assert result.benchmarks[0].flips == (0, 36)


def test_few_flips_in_few_questions_do_not_decide(world: World) -> None:
    world.stacks["flagos"] = answering(lambda n: n % 3 > 0 and n > 4)
    result = world.run()
    assert result.verdict == "INCONCLUSIVE"
    assert "more answers" in result.reason


def test_the_baseline_is_made_once(world: World) -> None:
    first = world.run()
    world.started.clear()
    second = world.run()
    assert world.started == ["flagos"]
    assert second.baseline_key == first.baseline_key
    assert second.benchmarks == first.benchmarks


@pytest.mark.parametrize(
    "change",
    [
        {"sampling": replace(finished_cell.model().sampling, temperature=0.5), "unchanged": True},
        {"serve": replace(finished_cell.model().serve, engine="vllm"), "unchanged": False},
    ],
)
def test_a_baseline_under_other_conditions_is_another_baseline(world: World, change: dict[str, Any]) -> None:
    """Letter questions are asked at temperature 0 whatever the model's sampling is, so that changes nothing."""
    unchanged = change.pop("unchanged")
    world.run()
    world.started.clear()
    world.run(**change)
    assert (world.started == ["flagos"]) is unchanged


def test_a_baseline_whose_evidence_is_gone_is_made_again(world: World) -> None:
    world.run()
    for path in (world.root / "evidence").rglob("*"):
        if path.is_file():
            path.unlink()
    world.started.clear()
    assert world.run().verdict == "PASS"
    assert world.started == ["native", "flagos"]
    assert "cannot be used and is evaluated again" in world.progress.notes[0]


def test_a_baseline_that_was_changed_is_made_again(world: World) -> None:
    world.run()
    stored = next(value for value in world.ledger.values() if "samples" in value)
    sha256 = stored["samples"]["sha256"]
    path = world.root / "evidence" / sha256[:2] / sha256
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"correct":true', b'"correct":fals', 1))
    world.started.clear()
    world.run()
    assert world.started == ["native", "flagos"]


def test_without_a_baseline_on_another_chip_the_verdict_is_open(world: World) -> None:
    job = world.job()
    far = replace(job, cell=replace(job.cell, baseline=Baseline(chip="nvidia-h100")))
    result = world.evaluate(far)
    assert world.started == ["flagos"]
    assert result.verdict == "INCONCLUSIVE"
    assert "no baseline" in result.reason
    assert "nvidia-h100/smollm2-135m" in result.reason
    (score,) = result.benchmarks
    assert (score.baseline, score.difference, score.interval90, score.p_regression) == (None, None, None, None)
    assert score.candidate == 2 / 3
    assert result.baseline_key == ""


def test_the_baseline_of_another_chip_is_found(world: World) -> None:
    job = world.job()
    far = replace(job, cell=replace(job.cell, baseline=Baseline(chip="nvidia-h100")))
    at_home = replace(far, cell=replace(far.cell, chip_name="nvidia-h100"))
    world.evaluate(at_home)
    world.started.clear()
    result = world.evaluate(far)
    assert world.started == ["flagos"]
    assert result.verdict == "PASS"
    assert result.baseline_name == "native on nvidia-h100"


def test_evidence_can_be_compared_without_running_anything(world: World, tmp_path: Path) -> None:
    world.stacks["flagos"] = answering(lambda n: n % 3 > 0 and n != 1)
    result = world.run()
    named = {one.name: EvidenceStore(world.root / "evidence").path(one) for one in result.evidence}
    assert set(named) == {
        "accuracy/samples.jsonl",
        "accuracy/baseline.samples.jsonl",
        "accuracy/conditions.json",
        "accuracy/comparison.json",
        "accuracy/flipped.jsonl",
    }
    text, _ = compare_main(named["accuracy/baseline.samples.jsonl"], named["accuracy/samples.jsonl"], {"*": 0.05}, True)
    again = json.loads(text)["benchmarks"]["mmlu-sample"]
    assert again["difference"] == result.benchmarks[0].difference
    (flip,) = [json.loads(line) for line in named["accuracy/flipped.jsonl"].read_text().splitlines()]
    assert (flip["change"], flip["baseline"], flip["candidate"]) == ("lost", ["B"], ["A"])
    conditions = json.loads(named["accuracy/conditions.json"].read_text())
    assert conditions["data"] == {"mmlu-sample": result.benchmarks[0].data_sha256}


def test_a_stopped_evaluation_goes_on_where_it_was(world: World) -> None:
    seen: list[int] = []

    def breaking(request: dict[str, Any], n: int) -> Said:
        seen.append(n)
        return Said(b"<html>") if len(seen) > 40 else answering(lambda _n: True)(request, n)

    world.stacks["native"] = breaking
    with pytest.raises(SmokeFailed):
        world.run()
    world.stacks["native"] = answering(lambda _n: True)
    world.run()
    assert world.endpoints["native"].asked.total() == QUESTIONS - 40


def test_a_finished_evaluation_that_is_wanted_again_is_asked_again(world: World) -> None:
    world.run()
    assert not list((world.root / "work").rglob("*.jsonl"))
    world.run()
    assert set(world.endpoints["flagos"].asked.values()) == {1}


def test_another_image_is_asked_anew(world: World) -> None:
    world.run()
    context = world.context()
    other = replace(context.result(results.IMAGE), digest="sha256:" + "9" * 64)
    world.started.clear()
    world.evaluate(world.job(), after(context, image=other))
    assert world.endpoints["flagos"].asked.total() == QUESTIONS


def test_progress_says_stack_accuracy_and_count(world: World) -> None:
    world.run()
    assert "flagos: mmlu-sample, look 1, accuracy 0.67 72/72 questions" in world.progress.texts


def test_a_benchmark_without_data_says_where_to_put_it(world: World) -> None:
    with pytest.raises(ConfigError) as caught:
        world.evaluate(replace(world.job(), data_dir=None))
    assert "mmlu-sample has no data" in caught.value.what
    assert "--data-dir" in caught.value.hint
    assert world.started == []


def test_the_key_follows_data_and_questions(world: World) -> None:
    def key(job: Job) -> str:
        return keys(job, (replace(accuracy.STAGE, reads=()),))["accuracy"].key

    job = world.job()
    before = key(job)
    assert key(world.job()) == before
    benchmark = replace(job.matrix.benchmarks["mmlu-sample"], margin=0.02)
    other = replace(job, matrix=replace(job.matrix, benchmarks={"mmlu-sample": benchmark}))
    assert key(other) != before
    (world.root / "data" / "mmlu.jsonl").write_text('{"question": "x", "choices": ["a", "b"], "answer": 1}\n')
    write_manifest(world.root / "data")
    assert key(world.job()) != before


def test_sampling_is_said_once_where_it_is_the_same(world: World) -> None:
    letter = {"temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": 20}
    assert world.run().sampling == letter | {"cache_prompt": False}


def test_mended_graders_are_another_key() -> None:
    made_of = code_version.of_stage(accuracy.run, accuracy.STAGE.programs).modules.keys()
    tasks = {path.stem for path in (code_version.PACKAGE / "evaluation/tasks").glob("*.py")} - {"__init__"}
    used = {"evaluation.tasks", *(f"evaluation.tasks.{name}" for name in tasks)}
    assert used | {f"evaluation.{name}" for name in ("grading.text", "grading.algebra", "chat")} <= made_of


def test_agreement_is_said(world: World) -> None:
    reason = world.run().benchmarks[0].reason
    assert "72 of 72 answers are the same" in reason


def test_a_baseline_at_chance_level_proves_nothing(world: World) -> None:
    """Neither for the same answers, nor for others with the same score."""
    world.stacks["native"] = answering(lambda n: n % 4 == 0)
    for flagos in (lambda n: n % 4 == 0, lambda n: n % 4 == 1):
        world.stacks["flagos"] = answering(flagos)
        found = world.run()
        (score,) = found.benchmarks
        assert (found.verdict, score.verdict, score.sensitive) == ("INCONCLUSIVE", "INCONCLUSIVE", False)
        assert "not sensitive: the baseline's score" in found.reason
