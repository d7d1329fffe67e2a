"""Collecting both sides' answers: look by look or all, colocated or one after the other."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flagrelease.config.matrix import Profile, Share
from flagrelease.contract.accuracy_results import Accuracy
from flagrelease.contract.job import Job
from flagrelease.errors import ComparisonRefused, SmokeFailed
from flagrelease.serving.servers import Servers
from flagrelease.store.evidence import EvidenceStore
from flagrelease.verdict import compare, group_sequential
from flagrelease.verdict.samples import read_samples
from support.contexts import Remembered
from support.endpoints import Answer, Said, chat
from support.evaluated import QUESTIONS, World, answering, world_of

MANY = 400


def sampling(name: str, loss: float = 0.0) -> Answer:
    """Question N is right with a probability that grows with N; each seed gives another answer."""

    def answer(request: dict[str, Any], _n: int) -> Said:
        number = int(request["messages"][0]["content"].partition("number ")[2].partition("?")[0])
        p = max(0.25 + 0.7 * number / QUESTIONS - loss, 0.0)
        right = random.Random(f"{name} {number} {request['seed']}").random() < p
        return chat(f"\\boxed{{{1 if right else 2}}}")

    return answer


@pytest.fixture
def many(tmp_path: Path) -> World:
    return world_of(tmp_path, MANY)


def sampled_world(root: Path) -> World:
    world = world_of(root)
    world.stacks = {"native": sampling("a"), "flagos": sampling("b")}
    return world


@pytest.fixture
def sampled(tmp_path: Path) -> World:
    return sampled_world(tmp_path)


def profiled(world: World, **changes: Any) -> Job:
    job = world.job()
    profile = Profile(gate_tokens=0, benchmarks={"mmlu-sample": Share()}, **changes)
    return replace(job, cell=replace(job.cell, profile=profile))


def test_it_stops_once_the_verdict_is_decided_and_reports_that(many: World) -> None:
    result = many.evaluate(profiled(many))
    (score,) = result.benchmarks
    assert (score.verdict, score.n) == ("PASS", 100)
    assert score.course is not None
    assert (score.course.answers, score.course.planned, score.course.look, score.course.looks) == (100, MANY, 1, 4)
    assert score.course.early
    assert score.partial == "100 of 14,042 questions"
    assert many.endpoints["native"].asked == many.endpoints["flagos"].asked
    assert result.questions_asked == 200


def test_a_small_margin_has_more_looks(many: World) -> None:
    job = profiled(many)
    job = replace(
        job, cell=replace(job.cell, profile=replace(job.cell.profile, benchmarks={"mmlu-sample": Share(limit=20)}))
    )
    narrow = replace(job.matrix.benchmarks["mmlu-sample"], margin=0.01)
    result = many.evaluate(replace(job, matrix=replace(job.matrix, benchmarks={"mmlu-sample": narrow})))
    (conditions,) = [one for one in result.evidence if one.name == "accuracy/conditions.json"]
    recorded = json.loads(EvidenceStore(many.root / "evidence").path(conditions).read_text())
    assert recorded["design"]["mmlu-sample"]["looks"] == group_sequential.interim_analyses(0.01, 1) == 40


def test_a_damaged_stack_fails_at_the_first_look(many: World) -> None:
    many.stacks["flagos"] = answering(lambda n: n % 6 == 1)
    result = many.evaluate(profiled(many))
    assert result.verdict == "FAIL"
    assert many.endpoints["flagos"].asked.total() == 100


def test_a_profile_can_turn_it_off(many: World) -> None:
    result = many.evaluate(profiled(many, sequential=False))
    (score,) = result.benchmarks
    assert (score.verdict, score.n, score.course) == ("PASS", MANY, None)
    assert result.questions_asked == 2 * MANY


def test_a_partial_baseline_grows_where_more_of_it_is_needed(many: World) -> None:
    many.evaluate(profiled(many))
    many.stacks["flagos"] = answering(lambda n: n % 3 > 0 and n % 29 > 0)
    many.started.clear()
    second = many.evaluate(profiled(many)).benchmarks[0]
    assert second.n > 100
    assert sorted(many.started) == ["flagos", "native"]
    assert many.endpoints["native"].asked.total() == second.n - 100


def test_a_partial_baseline_is_completed_for_a_complete_evaluation(many: World) -> None:
    many.evaluate(profiled(many))
    many.evaluate(profiled(many, sequential=False))
    assert many.endpoints["native"].asked.total() == MANY - 100


def test_a_partial_baseline_is_not_used_by_another_chip(many: World) -> None:
    job = profiled(many)
    many.evaluate(job)
    far = replace(job, cell=replace(job.cell, chip_name="metax"))
    assert "no baseline" in many.evaluate(far).reason
    assert "is incomplete" in many.progress.notes[0]


def test_on_a_cpu_both_sides_grow_together(sampled: World) -> None:
    (score,) = sampled.evaluate(sampled.sampled()).benchmarks
    assert score.course is not None
    assert sampled.started == ["native", "flagos"]
    assert sampled.endpoints["native"].asked.total() == sampled.endpoints["flagos"].asked.total()
    assert score.course.answers == sampled.endpoints["flagos"].asked.total() < QUESTIONS * 16
    assert score.repeats == pytest.approx(score.course.answers / score.n, abs=0.05)
    assert score.metric == f"MMLU_0fewshot_@avg{int(score.repeats)}"


def test_an_accelerator_holds_one_server_and_none_is_started_twice(sampled: World) -> None:
    job = sampled.sampled(vendor="nvidia")
    (score,) = sampled.evaluate(job).benchmarks
    assert sampled.started == ["native", "flagos"]
    assert sampled.endpoints["native"].asked.total() == QUESTIONS * 16
    assert score.course is not None
    assert score.course.answers == sampled.endpoints["flagos"].asked.total() < QUESTIONS * 16
    assert score.flips is None
    assert score.noise is not None
    assert score.noise.repeats == 8
    assert abs(score.noise.difference) < 0.1
    # the next release of the model reads the baseline and starts one server
    sampled.started.clear()
    again = sampled.evaluate(job).benchmarks[0]
    assert sampled.started == ["flagos"]
    assert again == score


def test_a_worse_stack_fails_against_a_complete_baseline(sampled: World) -> None:
    sampled.stacks["flagos"] = sampling("b", loss=0.25)
    (score,) = sampled.evaluate(sampled.sampled(vendor="nvidia")).benchmarks
    assert score.verdict == "FAIL"
    assert score.course is not None
    assert score.course.answers < QUESTIONS * 8


def test_a_baseline_near_chance_level_is_asked_until_it_is_sensitive_or_not(many: World) -> None:
    """The scores pass at the first look; whether 0.375 is more than 0.35 takes all questions of the baseline."""
    many.stacks["native"] = many.stacks["flagos"] = answering(lambda n: n % 8 < 3)
    (score,) = many.evaluate(profiled(many)).benchmarks
    assert (score.verdict, score.sensitive) == ("INCONCLUSIVE", False)
    assert many.endpoints["native"].asked.total() == MANY
    assert many.endpoints["flagos"].asked.total() == score.n < MANY
    again = many.evaluate(profiled(many)).benchmarks[0]
    assert again == score


def test_a_baseline_at_chance_level_ends_at_once(many: World) -> None:
    many.stacks["native"] = answering(lambda n: n % 4 == 0)
    many.stacks["flagos"] = answering(lambda n: n % 8 in (0, 1))
    (score,) = many.evaluate(profiled(many)).benchmarks
    assert (score.verdict, score.sensitive) == ("INCONCLUSIVE", False)
    assert "not sensitive" in score.reason


def test_a_question_that_always_fails_does_not_keep_it_from_ending(many: World) -> None:
    """It is an answer with an error, asked once per run and not once per look."""

    def one_fails(request: dict[str, Any], n: int) -> Said:
        if any(f"number {bad}?" in request["messages"][0]["content"] for bad in (3, 5)):
            return Said(b"<html>")
        return answering(lambda number: number % 3 > 0 and number % 29 > 0)(request, n)

    many.stacks["flagos"] = one_fails
    (score,) = many.evaluate(profiled(many)).benchmarks
    assert score.n > 100
    assert set(many.endpoints["flagos"].asked.values()) == {1}


def test_failed_answers_of_a_kept_baseline_are_asked_again(sampled: World) -> None:
    """Until they are there; in the meantime each of them widens the interval."""

    broken: list[int] = []

    def some_fail(request: dict[str, Any], n: int) -> Said:
        if "number 3?" in request["messages"][0]["content"] and len(broken) < 5:
            broken.append(n)
            return Said(b"<html>")
        return sampling("a")(request, n)

    job = sampled.sampled(vendor="nvidia")
    sampled.stacks["native"] = some_fail
    sampled.evaluate(job)
    failed = [each for each in sampled.ledger.values() if "errors" in each]
    assert [each["errors"] for each in failed] == [5]
    sampled.stacks["native"] = sampling("a")
    sampled.started.clear()
    sampled.evaluate(job)
    assert sampled.started == ["native", "flagos"]
    assert sampled.endpoints["native"].asked.total() == 5
    sampled.started.clear()
    sampled.evaluate(job)
    assert sampled.started == ["flagos"]
    assert [each["errors"] for each in sampled.ledger.values() if "errors" in each] == [0]


def test_a_killed_stage_asks_only_what_is_missing(sampled: World) -> None:
    job = sampled.sampled()
    seen: list[int] = []

    def breaking(request: dict[str, Any], n: int) -> Said:
        seen.append(n)
        return Said(b"<html>") if len(seen) > 150 else sampling("b")(request, n)

    sampled.stacks["flagos"] = breaking
    with pytest.raises(SmokeFailed):
        sampled.evaluate(job)
    before = sampled.endpoints.pop("native").asked.total()
    sampled.stacks["flagos"] = sampling("b")
    (score,) = sampled.evaluate(job).benchmarks
    assert score.course is not None
    assert sampled.endpoints["flagos"].asked.total() == score.course.answers - 150
    again = sampled.endpoints["native"].asked.total() if "native" in sampled.endpoints else 0
    assert again == score.course.answers - before
    other = world_of_again(sampled)
    assert other.evaluate(job).benchmarks[0] == score


def world_of_again(world: World) -> World:
    """The same data without any answers yet."""
    return replace(world, stacks={"native": sampling("a"), "flagos": sampling("b")}, shared=Remembered())


# Judging the recorded answers


@pytest.fixture(scope="module", params=["cpu", "nvidia"])
def evaluated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Accuracy]:
    """A folder of each side's answers with their conditions, colocated or against a complete baseline."""
    root = tmp_path_factory.mktemp("evaluated")
    world = sampled_world(root)
    result = world.evaluate(world.sampled(vendor=request.param))
    store = EvidenceStore(world.root / "evidence")
    named = {one.name: store.path(one) for one in result.evidence}
    for side, name in (("a", "accuracy/baseline.samples.jsonl"), ("b", "accuracy/samples.jsonl")):
        folder = root / "sides" / side
        folder.mkdir(parents=True)
        (folder / "samples.jsonl").write_bytes(named[name].read_bytes())
        (folder / "conditions.json").write_bytes(named["accuracy/conditions.json"].read_bytes())
    return root / "sides", result


@pytest.fixture
def left(evaluated: tuple[Path, Accuracy], tmp_path: Path) -> tuple[Path, Path, Accuracy]:
    """The same in folders that a test may change."""
    sides, result = evaluated
    shutil.copytree(sides, tmp_path, dirs_exist_ok=True)
    return tmp_path / "a", tmp_path / "b", result


def test_compare_judges_it_by_its_recorded_design(left: tuple[Path, Path, Accuracy]) -> None:
    a, b, result = left
    text, code = compare.compare_main(a, b, {}, as_json=True)
    found = json.loads(text)["benchmarks"]["mmlu-sample"]
    (score,) = result.benchmarks
    assert (code, found["verdict"]) == (0, score.verdict)
    assert (found["n"], found["margin"], found["difference"]) == (score.n, score.margin, score.difference)
    assert tuple(found["interval90"]) == score.interval90
    assert "sequential" not in text


def test_another_margin_is_judged_by_the_interval_that_holds_at_every_look(left: tuple[Path, Path, Accuracy]) -> None:
    a, b, result = left
    low = (result.benchmarks[0].interval90 or (0.0, 0.0))[0]
    assert low < 0
    wide, narrow = (compare.compare_main(a, b, {"*": margin}, as_json=True) for margin in (0.15, -low / 2))
    assert (wide[1], narrow[1]) == (0, 5)
    assert json.loads(wide[0])["benchmarks"]["mmlu-sample"]["margin"] == 0.15
    table, _ = compare.compare_main(a, b, {"*": 0.3}, as_json=False)
    assert "judged by its interval, which is valid at every look" in table


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_cut_file_is_refused(left: tuple[Path, Path, Accuracy], side: str, tmp_path: Path) -> None:
    path = tmp_path / side / "samples.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    with pytest.raises(ComparisonRefused, match="is incomplete in mmlu-sample"):
        compare.compare_main(tmp_path / "a", tmp_path / "b", {}, as_json=True)
    path.write_text("".join(lines)[:-10])
    with pytest.raises(ComparisonRefused, match="the last line is truncated"):
        compare.compare_main(tmp_path / "a", tmp_path / "b", {}, as_json=True)
    assert left


def test_without_its_design_it_is_not_judged(left: tuple[Path, Path, Accuracy]) -> None:
    for folder in left[:2]:
        (folder / "conditions.json").unlink()
    with pytest.raises(ComparisonRefused, match="is incomplete in mmlu-sample"):
        compare.compare_main(left[0], left[1], {}, as_json=True)


def test_a_damaged_design_and_foreign_questions_are_refused(left: tuple[Path, Path, Accuracy]) -> None:
    a, b, _ = left
    before, after = (read_samples(folder / "samples.jsonl") for folder in (a, b))
    record = json.loads((b / "conditions.json").read_text())["design"]["mmlu-sample"]
    planned = group_sequential.read(record, "x")
    with pytest.raises(ComparisonRefused, match="the recorded design of x is damaged"):
        group_sequential.read({**record, "repeats": "many"}, "x")
    foreign = replace(planned, questions=planned.questions[1:])
    with pytest.raises(ComparisonRefused, match="a question of x that is not in its design"):
        group_sequential.judge(foreign, "x", before, after)
    changed = [replace(after[0], prompt_sha256="0" * 64), *after[1:]]
    with pytest.raises(ComparisonRefused, match="different prompts"):
        group_sequential.judge(planned, "x", before, changed)


def test_servers_are_stopped_on_every_way_out(many: World) -> None:
    def both() -> None:
        with Servers(profiled(many), many.context(), many.serve) as servers:
            servers.get("native")
            servers.get("flagos")
            assert many.up == ["native", "flagos"]
            raise RuntimeError("out")

    with pytest.raises(RuntimeError, match="out"):
        both()
    assert many.up == []
