"""The evalscope harness: its input, and the samples made from its output files."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flagrelease.config.matrix import Share
from flagrelease.errors import CommandFailed, ConfigError, EnvironmentFault, FlagreleaseError, SmokeFailed
from flagrelease.evaluation.harness import Patience
from flagrelease.evaluation.harnesses.choose import check, lacking
from flagrelease.evaluation.harnesses.evalscope import EvalscopeHarness, argv
from flagrelease.evaluation.harnesses.evalscope_data import choice_row, refuse
from flagrelease.evaluation.harnesses.evalscope_output import read_run
from flagrelease.evaluation.question import Question
from flagrelease.evaluation.request import Ask, Endpoint, Evaluation, EvaluationRequest
from flagrelease.evaluation.spec import asks
from flagrelease.evaluation.tasks import TASKS
from support import finished_cell

CHOICES = "A) one\nB) two\nB) of two\nC) three"


def question(number: int = 1, text: str = "", reference: Any = ("ABC", "B")) -> Question:
    content = text or f"Question {number}\n\n{CHOICES}"
    return Question(
        subset="all", id=f"q{number}", messages=({"role": "user", "content": content},), reference=reference
    )


def evaluation(task: str = "multiple-choice-cot", n: int = 3, **changes: Any) -> Evaluation:
    values: dict[str, Any] = {
        "benchmark": "made-up",
        "task": TASKS[task],
        "asks": asks([question(number) for number in range(n)], range(1)),
        "parameters": {"temperature": 0.6, "max_tokens": 64, "chat_template_kwargs": {"enable_thinking": True}},
        "concurrency": 4,
        "harness": "evalscope",
    }
    return Evaluation(**{**values, **changes})


def left_behind(
    folder: Path,
    asked: tuple[Ask, ...],
    said: dict[int, dict[str, Any]] | None = None,
    graded: dict[int, dict[str, Any]] | None = None,
) -> None:
    """The files of evalscope 1.14.1, without unused fields; `said` and `graded` change single lines."""
    predictions, reviews = [], []
    for index, ask in enumerate(asked):
        message = {"role": "user", "content": ask.question.messages[0]["content"]}
        output = {
            "choices": [{"message": {"role": "assistant", "content": "ANSWER: B"}, "stop_reason": "stop"}],
            "usage": {"input_tokens": 69, "output_tokens": 7},
            "time": 0.5,
            "error": None,
        }
        score = {"value": {"acc": 1.0}, "extracted_prediction": "B", "main_score_name": "acc"}
        predictions.append({"index": index, "model_output": {**output, **(said or {}).get(index, {})}})
        review = {"index": index, "messages": [message], "sample_score": {"score": score}}
        reviews.append({**review, **(graded or {}).get(index, {})})
    for name, lines in (("predictions", predictions), ("reviews", reviews)):
        path = folder / "out" / name / "m" / "arc_ARC-Challenge.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def scored(value: dict[str, Any]) -> dict[str, Any]:
    return {"sample_score": {"score": {"value": value, "extracted_prediction": "B", "main_score_name": None}}}


def test_its_files_become_samples(tmp_path: Path) -> None:
    what = evaluation()
    left_behind(tmp_path, what.asks, graded={1: scored({"accuracy": 0.0})})
    samples = read_run(tmp_path, what, what.asks)
    assert [(one.question_id, one.correct, one.answer) for one in samples] == [
        ("q0", True, "B"),
        ("q1", False, "B"),
        ("q2", True, "B"),
    ]
    assert {one.prompt_sha256 for one in samples} == {ask.question.prompt_sha256 for ask in what.asks}
    assert (samples[0].finish_reason, samples[0].completion_tokens, samples[0].latency_s) == ("stop", 7, 0.5)


@pytest.mark.parametrize(
    ("stop", "finish"), [("max_tokens", "length"), ("model_length", "length"), ("unknown", None), (None, None)]
)
def test_the_finish_reason_is_null_where_evalscope_does_not_report_it(
    stop: str | None, finish: str | None, tmp_path: Path
) -> None:
    what = evaluation(n=1)
    left_behind(tmp_path, what.asks, said={0: {"choices": [{"stop_reason": stop}], "usage": None, "time": None}})
    (sample,) = read_run(tmp_path, what, what.asks)
    assert (sample.finish_reason, sample.completion_tokens, sample.latency_s) == (finish, None, None)


def test_a_missing_answer_or_grade_is_an_error_and_wrong(tmp_path: Path) -> None:
    what = evaluation(n=4)
    left_behind(tmp_path, what.asks, said={2: {"error": "HTTP 500"}}, graded={1: scored({}), 3: scored({"acc": 7})})
    path = tmp_path / "out" / "predictions" / "m" / "arc_ARC-Challenge.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))  # the first request failed
    log = "ERROR: Processing item in subset='ARC-Challenge' failed: Request timed out.\nTraceback:\n"
    (tmp_path / "evalscope.log").write_text(log)
    samples = read_run(tmp_path, what, what.asks)
    assert [one.correct for one in samples] == [False] * 4
    assert [one.error for one in samples] == [
        "evalscope has no answer: Request timed out. Traceback:",
        "evalscope gave no grade: {}",
        "HTTP 500",
        "evalscope gave no grade: {'acc': 7}",
    ]


def test_another_prompt_than_ours_is_refused(tmp_path: Path) -> None:
    what = evaluation()
    left_behind(tmp_path, what.asks, graded={1: {"messages": [{"role": "user", "content": "in other words"}]}})
    with pytest.raises(SmokeFailed, match="did not ask q1 in the given words"):
        read_run(tmp_path, what, what.asks)


def test_an_answer_that_was_reviewed_twice_is_refused(tmp_path: Path) -> None:
    what = evaluation()
    left_behind(tmp_path, what.asks, graded={1: {"index": 0}})
    with pytest.raises(SmokeFailed, match="reviewed answer 0 twice"):
        read_run(tmp_path, what, what.asks)


def test_files_with_an_unexpected_schema_are_refused(tmp_path: Path) -> None:
    what = evaluation()
    left_behind(tmp_path, what.asks, graded={0: {"sample_score": {}}})
    with pytest.raises(SmokeFailed, match="cannot be read"):
        read_run(tmp_path, what, what.asks)


def test_split_off_options_and_question_make_up_the_prompt() -> None:
    for text in (f"Why?\n\n{CHOICES}", "A list:\n\nA) not this\n\nWhich?\n\nA) a\nB) b\n\nB) b again\nC) c\nD) more"):
        row = choice_row(question(text=text))
        options = zip("ABC", row["choices"]["text"], strict=True)
        assert row["question"] + "\n\n" + "\n".join(f"{letter}) {one}" for letter, one in options) == text


def test_the_arguments_have_the_sampling_but_not_the_key(tmp_path: Path) -> None:
    arguments = argv(Endpoint(base_url="http://h/v1", model="m", key="hush-hush"), evaluation(), tmp_path)
    assert "hush-hush" not in " ".join(arguments)
    sampling = json.loads(arguments[arguments.index("--generation-config") + 1])
    extra = {"chat_template_kwargs": {"enable_thinking": True}}
    assert sampling == {"temperature": 0.6, "max_tokens": 64, "extra_body": extra}
    llama = evaluation(parameters={"temperature": 0, "top_k": 3, "cache_prompt": False})
    arguments = argv(Endpoint(base_url="http://h/v1", model="m"), llama, tmp_path)
    sampling = json.loads(arguments[arguments.index("--generation-config") + 1])
    assert sampling == {"temperature": 0, "top_k": 3, "extra_body": {"cache_prompt": False}}


@pytest.mark.parametrize(("task", "why"), [("multiple-choice", "log-probabilities"), ("livebench", "no LiveBench")])
def test_an_unsupported_task_is_refused_before_the_start(task: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"evalscope cannot ask mmlu .task {task}.") as refused:
        refuse(TASKS[task], "mmlu")
    assert why in refused.value.why
    assert "harness: own" in refused.value.hint


def test_the_program_uses_no_proxy_for_this_machine(tmp_path: Path) -> None:
    program = tmp_path / "evalscope"
    program.write_text("#!/bin/sh\necho $NO_PROXY; exit 3\n")
    program.chmod(0o755)
    request = EvaluationRequest(
        endpoint=Endpoint(base_url="http://127.0.0.1:1/v1", model="m"),
        evaluation=evaluation(),
        into=tmp_path / "s.jsonl",
    )
    with pytest.raises(CommandFailed) as failed:
        EvalscopeHarness(str(program)).evaluate(request)
    assert failed.value.why.endswith("localhost,127.0.0.1,::1")


def test_a_missing_program(tmp_path: Path) -> None:
    harness = EvalscopeHarness(str(tmp_path / "nothing"))
    with pytest.raises(EnvironmentFault, match="is not installed"):
        harness.evaluate(
            EvaluationRequest(
                endpoint=Endpoint(base_url="http://h/v1", model="m"),
                evaluation=evaluation(),
                into=tmp_path / "s.jsonl",
            )
        )


@pytest.mark.parametrize("writes", [False, True])
def test_a_server_that_stops_answering_evalscope_ends_it(tmp_path: Path, writes: bool) -> None:
    """A program in its place gets no answer, or as many as there are questions, a second apart."""
    program = tmp_path / "evalscope"
    each = 'for i in 1 2 3 4 5 6; do sleep 1; echo "{}" >>out/predictions/m/x.jsonl; done'
    line = f"mkdir -p out/predictions/m; {each}; exit 1"
    program.write_text(f"#!/bin/sh\n{line if writes else 'sleep 60'}\n")
    program.chmod(0o755)
    harness = EvalscopeHarness(str(program), Patience(request_seconds=3600.0, least_seconds=3.0))
    endpoint = Endpoint(base_url="http://h/v1", model="m", token_seconds=0.001)
    began = time.monotonic()
    with pytest.raises(FlagreleaseError) as caught:
        harness.evaluate(EvaluationRequest(endpoint=endpoint, evaluation=evaluation(), into=tmp_path / "s.jsonl"))
    assert time.monotonic() - began < 20
    assert ("has stopped answering" in caught.value.what) is not writes


def test_a_harness_that_is_not_set_up_is_named_before_anything_is_asked(tmp_path: Path) -> None:
    job = finished_cell.job()
    profile = replace(job.cell.profile, benchmarks={"mmlu-sample": Share()}, harness="evalscope")
    cell = replace(job.cell, profile=profile)
    reasoned = {"mmlu-sample": replace(job.matrix.benchmarks["mmlu-sample"], task="multiple-choice-cot")}
    with pytest.raises(EnvironmentFault) as refused:
        check(cell, reasoned, {})
    assert "FLAGRELEASE_EVALSCOPE is not set" in refused.value.line()
    program = tmp_path / "evalscope"
    env = {"FLAGRELEASE_EVALSCOPE": str(program)}
    assert "does not exist" in (lacking("evalscope", env) or ("",))[0]
    program.touch()
    check(cell, reasoned, env)
    with pytest.raises(ConfigError):
        check(cell, {"mmlu-sample": replace(reasoned["mmlu-sample"], task="multiple-choice")}, env)
    with pytest.raises(ConfigError, match="evalscope cannot ask mmlu-sample") as refused_zip:
        check(cell, {"mmlu-sample": replace(reasoned["mmlu-sample"], data="data://gpqa.zip#gpqa_main.csv")}, env)
    assert "in memory only" in refused_zip.value.why
    own = {"mmlu-sample": replace(reasoned["mmlu-sample"], task="multiple-choice", harness="own")}
    check(cell, own, {})
