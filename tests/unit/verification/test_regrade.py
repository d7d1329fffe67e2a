"""Grading again: with the operator's questions, without them, from replies, from extracted answers, with programs."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from flagrelease.config.lockfile import LockedData, LockedFile
from flagrelease.config.matrix import Benchmark
from flagrelease.evaluation.datasets import write_manifest
from flagrelease.evaluation.question import Question
from flagrelease.evaluation.request import Evaluation
from flagrelease.evaluation.spec import EvalSpec
from flagrelease.evaluation.tasks import TASKS
from flagrelease.store.digests import file_sha256
from flagrelease.verdict.samples import Sample
from flagrelease.verification import regrade
from flagrelease.verification.answers import Asked, Side
from flagrelease.verification.findings import Check, State
from flagrelease.verification.release import Release, open_release
from flagrelease.verification.verify import Options, accuracy
from support import released
from support.finished_cell import TEMPLATES

NAME = "letters"
LETTERS = Benchmark(
    title="Letters", task="multiple-choice", data="data://own/letters.jsonl", license="MIT", margin=0.12
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "own").mkdir()
    rows = [{"question": f"number {n}?", "choices": ["one", "two", "six", "ten"], "answer": n % 4} for n in range(200)]
    (folder / "own/letters.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return released.evaluated(tmp_path_factory.mktemp("released"), {NAME: LETTERS}, data=data)


def answers(release: Release, *data: Path) -> list[Check]:
    return [c for c in accuracy(release, Options(templates=TEMPLATES, data=data)) if c.check in ("answers", "score")]


def test_without_the_questions_scores_are_computed_and_answers_are_not_graded(published: Path) -> None:
    found = answers(open_release(published))
    why = "benchmark letters has no data: data://own/letters.jsonl is in your data folder, and none was given"
    assert [c.detail for c in found if c.check == "answers"] == [f"200 answers are not graded again: {why}"] * 2
    assert {c.state for c in found if c.check == "score"} == {State.AGREES}
    assert not [c for c in found if c.decisive]


def test_with_the_questions_letters_are_graded_from_the_extracted_answers(published: Path, data: Path) -> None:
    found = [c for c in answers(open_release(published), data) if c.check == "answers"]
    assert [c.detail for c in found if c.state is State.AGREES] == [
        "200 of 200 have the recorded grade when graded again"
    ] * 2
    assert [c.detail for c in found if c.state is State.NOT_CHECKED] == [
        "200 answers were graded as they were extracted: the log-probabilities of the letters are not stored"
    ] * 2


def test_a_folder_without_them_does_not_hide_one_that_has_them(published: Path, data: Path, tmp_path: Path) -> None:
    assert State.AGREES in {c.state for c in answers(open_release(published), tmp_path, data) if c.check == "answers"}


def test_other_questions_than_the_evaluated_ones_are_named(published: Path, data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(data, tmp_path / "data"))
    file = other / "own/letters.jsonl"
    file.write_text(file.read_text().replace("number 7?", "number 77?"))
    write_manifest(other)
    details = [c.detail for c in answers(open_release(published), other) if c.state is State.DIFFERS]
    assert [each for each in details if "answers a question that the benchmark has not" in each]
    assert [each for each in details if each.startswith("data_sha256 is ")]


def test_pinned_questions_are_found_by_name_and_digest(published: Path, data: Path, tmp_path: Path) -> None:
    file = data / "own/letters.jsonl"
    pin = LockedFile(path="letters.jsonl", size=file.stat().st_size, sha256=file_sha256(file))
    source = "pypi://letters==1/letters.jsonl"
    release = open_release(published)
    record = replace(
        release.record,
        benchmarks={NAME: replace(LETTERS, data=source)},
        pins=replace(release.record.pins, benchmarks={NAME: LockedData(source=source, rows=200, file=pin)}),
    )
    release = replace(release, record=record)
    (missing, _) = [c for c in answers(release) if c.check == "answers"]
    assert missing.detail == f"200 answers are not graded again: its questions are {source}: no --data-dir is given"
    (tmp_path / "deep").mkdir()
    shutil.copy(file, tmp_path / "deep/letters.jsonl")
    assert State.AGREES in {c.state for c in answers(release, tmp_path) if c.check == "answers"}
    (tmp_path / "deep/letters.jsonl").write_bytes(file.read_bytes().replace(b"number 7?", b"number 8?"))
    assert State.AGREES not in {c.state for c in answers(release, tmp_path) if c.check == "answers"}


def graded(
    task: str, answered: Sequence[tuple[Question, Sample, str | None]], *, programs: bool = False
) -> list[Check]:
    """One side's answers to a benchmark of `task`, graded again."""
    spec = EvalSpec(
        benchmark="b",
        title="B",
        shots=0,
        evaluation=Evaluation(benchmark="b", task=TASKS[task], asks=(), parameters={}, concurrency=1),
        questions=tuple(question for question, _, _ in answered),
        repeats=1,
        total=len(answered),
        margin=0.05,
        data_sha256="0" * 64,
    )
    samples = [sample for _, sample, _ in answered]
    replies = {sample.key: text for _, sample, text in answered if text is not None}
    side = Side(name="native on cpu", samples={"b": samples}, replies=replies)
    asked = Asked(spec=spec, known=True)
    return list(regrade.checks(asked, side, grader="", recorded_grader="", programs=programs))


def one(
    subset: str, reference: object, text: str | None, answer: str | None, *, correct: bool
) -> tuple[Question, Sample, str | None]:
    question = Question(subset=subset, id="q", messages=({"role": "user", "content": "?"},), reference=reference)
    sample = Sample(
        benchmark="b",
        subset=subset,
        question_id="q",
        prompt_sha256=question.prompt_sha256,
        repeat=0,
        correct=correct,
        answer=answer,
        finish_reason="stop",
        completion_tokens=5,
        latency_s=1.0,
        error=None,
    )
    return question, sample, text


CUT = "It is 4\n[… 5,000 characters left out …]\nand so 42."


@pytest.mark.parametrize(
    ("task", "reference", "text", "answer"),
    [
        ("integer", 42, None, "42"),
        ("integer", 42, CUT, "42"),
        ("exact", "The cat.", None, "the cat"),
        ("multiple-choice-cot", ("ABCD", "C"), None, "C"),
        ("multiple-choice", ("ABCD", "C"), None, "C"),
    ],
)
@pytest.mark.parametrize("correct", [True, False])
def test_without_a_complete_reply_the_extracted_answer_is_graded(
    task: str, reference: object, text: str | None, answer: str, correct: bool
) -> None:
    found = graded(task, [one("all", reference, text, answer, correct=correct)])
    assert found[0].state is (State.AGREES if correct else State.DIFFERS)
    assert found[-1].detail.startswith("1 answers were graded as they were extracted: ")
    empty = graded(task, [one("all", reference, None, None, correct=correct)])
    assert empty[0].state is (State.DIFFERS if correct else State.AGREES)


def test_an_answer_whose_grade_needs_the_reply_is_not_graded_without_it() -> None:
    (found,) = graded("ifeval", [one("all", (), None, "1 of 1 instructions", correct=True)])
    assert (found.state, found.detail) == (
        State.NOT_CHECKED,
        "1 answers: the reply is not stored, and the extracted answer alone does not decide the grade",
    )


def test_programs_are_run_only_if_that_is_wanted() -> None:
    (found,) = graded("livebench", [one("LCB_generation", ("LCB_generation", (), ""), "```\n```", None, correct=False)])
    assert (found.state, found.detail) == (State.NOT_CHECKED, "1 answers: their programs are run with --programs only")


@pytest.mark.slow
def test_slow_graders_run_in_processes_with_limits() -> None:
    right = one("all", "\\frac{1}{2}", "It is \\boxed{0.5}", "0.5", correct=True)
    assert [c.state for c in graded("math", [right])] == [State.AGREES]
    (found,) = graded("math", [one("all", "\\frac{1}{2}", "It is \\boxed{0.7}", "0.7", correct=True)])
    assert (found.state, found.detail) == (State.DIFFERS, "all/q repeat 0 is wrong, recorded as right: '0.7'")


@pytest.mark.slow
def test_many_answers_are_graded_in_several_processes() -> None:
    many = []
    for n in range(6000):
        question, sample, text = one("all", n, f"\\boxed{{{n if n != 5500 else 1}}}", str(n), correct=True)
        many.append((replace(question, id=str(n)), replace(sample, question_id=str(n)), text))
    (found,) = graded("integer", many)
    assert (found.state, found.detail) == (State.DIFFERS, "all/5500 repeat 0 is wrong, recorded as right: '1'")
