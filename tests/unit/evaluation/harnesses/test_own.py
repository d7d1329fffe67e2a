"""The harness `own` against a loopback endpoint: each question once, resumption, bounded retries, counted failures."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flagrelease.errors import DiedLater, SmokeFailed
from flagrelease.evaluation.harness import Patience
from flagrelease.evaluation.question import Grade, Question, Reply
from flagrelease.evaluation.request import Tally
from flagrelease.evaluation.tasks import TASKS
from flagrelease.ports.retry import Backoff
from flagrelease.verdict.samples import Sample, read_samples
from support.asking import LETTER, QUICK, ask, echo, evaluation
from support.endpoints import Said, chat, letters, serving


def test_every_question_is_answered_once_for_each_repeat(tmp_path: Path) -> None:
    with serving(echo) as server:
        tally, samples = ask(server.base_url, evaluation(20, repeats=3, temperature=0.7), tmp_path / "s.jsonl")
    assert set(server.asked.values()) == {3}
    assert {(one.question_id, one.repeat) for one in samples} == {(f"q{n}", k) for n in range(20) for k in range(3)}
    assert (tally.done, tally.total, tally.asked, tally.score, tally.errors) == (60, 60, 60, 39.0, 0)
    assert samples[0].answer is not None
    assert samples[0].completion_tokens == 5
    assert samples[0].latency_s is not None
    assert samples[0].latency_s > 0


def test_repeats_of_a_sampled_question_have_different_seeds(tmp_path: Path) -> None:
    with serving(echo) as server:
        ask(server.base_url, evaluation(5, repeats=4, temperature=0.7), tmp_path / "a.jsonl")
    assert len({request["seed"] for request in server.requests}) == 20


def test_a_greedy_question_has_no_seed(tmp_path: Path) -> None:
    with serving(echo) as server:
        ask(server.base_url, evaluation(2), tmp_path / "a.jsonl")
    assert all("seed" not in request for request in server.requests)


def test_the_concurrency_is_reached_and_not_exceeded(tmp_path: Path) -> None:
    def slowly(request: dict[str, Any], n: int) -> Said:
        said = echo(request, n)
        return Said(said.body, seconds=0.02)

    with serving(slowly) as server:
        ask(server.base_url, evaluation(40, concurrency=8), tmp_path / "a.jsonl")
    assert server.most_in_flight == 8


def test_answered_questions_are_not_asked_again(tmp_path: Path) -> None:
    into = tmp_path / "s.jsonl"
    with serving(echo) as server:
        ask(server.base_url, evaluation(12), into)
        lines = into.read_text().splitlines(keepends=True)
        # Killed in the middle of writing the eighth answer.
        into.write_text("".join(lines[:7]) + lines[7][: len(lines[7]) // 2])
        server.asked.clear()
        tally, samples = ask(server.base_url, evaluation(12), into)
    assert server.asked.total() == 5
    assert (tally.done, tally.asked) == (12, 5)
    assert len(samples) == 12
    assert tally.score == sum(one.correct for one in samples)


def test_a_finished_evaluation_asks_nothing(tmp_path: Path) -> None:
    with serving(echo) as server:
        ask(server.base_url, evaluation(3), tmp_path / "s.jsonl")
        server.asked.clear()
        tally, _ = ask(server.base_url, evaluation(3), tmp_path / "s.jsonl")
    assert server.asked.total() == 0
    assert tally.done == 3


def test_busy_and_broken_answers_are_asked_again(tmp_path: Path) -> None:
    def moody(request: dict[str, Any], n: int) -> Said:
        if n == 1:
            return Said(b"busy", status=429, headers={"Retry-After": "0.05"})
        if n == 2:
            return Said(b"oops", status=503)
        return echo(request, n)

    with serving(moody) as server:
        tally, samples = ask(server.base_url, evaluation(4, concurrency=2), tmp_path / "s.jsonl")
    assert tally.errors == 0
    assert len(samples) == 4
    assert set(server.asked.values()) == {3}


def test_retry_after_holds_back_all_requests(tmp_path: Path) -> None:
    times: list[float] = []

    def once_busy(request: dict[str, Any], n: int) -> Said:
        times.append(time.monotonic())
        if len(times) == 1:
            return Said(b"", status=429, headers={"Retry-After": "0.5"})
        return echo(request, n)

    with serving(once_busy) as server:
        ask(server.base_url, evaluation(6, concurrency=1), tmp_path / "s.jsonl")
    assert times[1] - times[0] >= 0.5


def test_a_cut_connection_is_retried(tmp_path: Path) -> None:
    def cut_once(request: dict[str, Any], n: int) -> Said:
        said = echo(request, n)
        return Said(said.body, cut=10) if n == 1 else said

    with serving(cut_once) as server:
        tally, samples = ask(server.base_url, evaluation(5), tmp_path / "s.jsonl")
    assert tally.errors == 0
    assert len(samples) == 5


def test_a_server_that_hangs_ends_the_evaluation_soon_and_keeps_the_answers(tmp_path: Path) -> None:
    """It accepts requests and never answers them, while its process runs: no connection fails."""

    def hanging(request: dict[str, Any], n: int) -> Said:
        number = int(request["messages"][-1]["content"].split()[-1])
        return replace(echo(request, n), seconds=60.0 if number >= 4 else 0.0)

    patience = replace(QUICK, request_seconds=3600.0, least_seconds=2.0)  # a busy machine may delay an answer
    silent: list[float] = []
    began = time.monotonic()
    with (
        serving(hanging) as server,
        pytest.raises(SmokeFailed, match="the server has stopped answering") as caught,
    ):
        ask(
            server.base_url,
            evaluation(40, concurrency=2),
            tmp_path / "s.jsonl",
            patience=patience,
            report=lambda tally: silent.append(tally.silent),
        )
    assert time.monotonic() - began < 30
    assert "there was no response for" in caught.value.why
    assert max(silent) > 0.5
    assert {sample.question_id for sample in read_samples(tmp_path / "s.jsonl")} == {"q0", "q1", "q2", "q3"}


def test_a_server_that_hangs_before_its_first_answer_is_noticed_by_its_measured_speed(tmp_path: Path) -> None:
    patience = replace(QUICK, request_seconds=3600.0, least_seconds=0.5)
    began = time.monotonic()
    with (
        serving(lambda request, n: replace(echo(request, n), seconds=60.0)) as server,
        pytest.raises(SmokeFailed, match="the server has stopped answering"),
    ):
        ask(server.base_url, evaluation(4), tmp_path / "s.jsonl", patience=patience, token_seconds=0.001)
    assert time.monotonic() - began < 30


def test_an_answer_that_the_server_gave_up_is_asked_again(tmp_path: Path) -> None:
    def aborting(request: dict[str, Any], n: int) -> Said:
        return chat("We look at the", finish="abort") if n == 1 else echo(request, n)

    with serving(aborting) as server:
        tally, samples = ask(server.base_url, evaluation(4), tmp_path / "s.jsonl")
    assert (tally.errors, tally.done) == (0, 4)
    assert set(server.asked.values()) == {2}
    assert all(one.answer is not None for one in samples)


@pytest.mark.parametrize("reason", ["abort", "error", "content_filter", "tool_calls"])
def test_answers_that_did_not_end_are_failed_requests_and_never_wrong_answers(reason: str, tmp_path: Path) -> None:
    with (
        serving(lambda _request, _n: chat("We look at the", finish=reason)) as server,
        pytest.raises(SmokeFailed, match="requests failed") as caught,
    ):
        ask(server.base_url, evaluation(10), tmp_path / "s.jsonl")
    assert reason in caught.value.why


def test_a_grader_s_defect_is_a_failed_answer_with_its_reason(tmp_path: Path) -> None:
    def broken(_question: Question, reply: Reply) -> Grade:
        return Grade(1 // (int(reply.text) - 1) > 0, reply.text)

    what = evaluation(4, task=replace(TASKS["integer"], grade=broken))
    with serving(lambda request, _n: chat(request["messages"][0]["content"][-1])) as server:
        tally, samples = ask(server.base_url, what, tmp_path / "s.jsonl")
    (failed,) = [one for one in samples if one.error is not None]
    assert (failed.question_id, tally.errors) == ("q1", 1)
    assert "ZeroDivisionError" in str(failed.error)


def test_a_server_that_closes_after_each_answer_costs_no_attempt(tmp_path: Path) -> None:
    def closing(request: dict[str, Any], n: int) -> Said:
        return Said(echo(request, n).body, headers={"Connection": "close"})

    with serving(closing) as server:
        tally, _ = ask(server.base_url, evaluation(9), tmp_path / "s.jsonl")
    assert tally.errors == 0
    assert set(server.asked.values()) == {1}


def test_chunked_bodies_are_read(tmp_path: Path) -> None:
    with serving(lambda request, n: Said(echo(request, n).body, chunked=True)) as server:
        tally, _ = ask(server.base_url, evaluation(9), tmp_path / "s.jsonl")
    assert (tally.errors, tally.done) == (0, 9)


INVALID = {
    "not JSON": (Said(b"<html>"), "not JSON"),
    "no choices": (Said(b'{"object": "error"}'), "no choices"),
    "empty choices": (Said(b'{"choices": []}'), "no choices"),
    "a list": (Said(b"[]"), "no choices"),
    "no message": (Said(b'{"choices": [{}]}'), "no message"),
    "content is a number": (Said(b'{"choices": [{"message": {"content": 3}}]}'), "no message"),
    "a bad request": (Said(b'{"error": "context too long"}', status=400), "HTTP 400: context too long"),
    "an error": (Said(b'{"error": {"message": "CUDA out of memory"}}'), "CUDA out of memory"),
    "deep JSON": (Said(b'{"choices":' + b"[" * 50_000), "not JSON"),
    "not UTF-8": (Said(b"\xff\xfe"), "not JSON"),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_response_is_a_failed_answer_with_its_reason(name: str, tmp_path: Path) -> None:
    said, reason = INVALID[name]
    with serving(
        lambda request, n: said if request["messages"][0]["content"] == "question 1" else echo(request, n)
    ) as server:
        tally, samples = ask(server.base_url, evaluation(4), tmp_path / "s.jsonl")
    (failed,) = [one for one in samples if one.error is not None]
    assert failed.question_id == "q1"
    assert reason in str(failed.error)
    assert failed.correct is False
    assert (tally.errors, tally.done) == (1, 4)
    assert server.asked["question 1"] == 1  # asking again would select answers


@pytest.mark.parametrize("value", ["NaN", "Infinity", "null", '"x"'])
def test_a_log_probability_that_is_not_a_number_is_a_failed_answer(value: str, tmp_path: Path) -> None:
    good = letters({"A": -1.0, "B": -0.5})
    bad = Said(good.body.replace(b"-0.5", value.encode()))
    with serving(lambda request, _n: bad if request["messages"][0]["content"] == "question 0" else good) as server:
        _, samples = ask(server.base_url, evaluation(3, task=LETTER), tmp_path / "s.jsonl")
    errors = {one.question_id: one.error for one in samples}
    assert errors["q0"]
    assert errors["q1"] is errors["q2"] is None


def test_an_endpoint_without_log_probabilities_is_reported(tmp_path: Path) -> None:
    with (
        serving(lambda _request, _n: chat("B")) as server,
        pytest.raises(SmokeFailed) as caught,
    ):
        ask(server.base_url, evaluation(10, task=LETTER), tmp_path / "s.jsonl")
    assert "does not provide log-probabilities" in caught.value.why


def test_too_many_failures_end_the_evaluation(tmp_path: Path) -> None:
    into = tmp_path / "s.jsonl"
    with serving(lambda _request, _n: Said(b"<html>")) as server:
        with pytest.raises(SmokeFailed) as caught:
            ask(server.base_url, evaluation(400, concurrency=1), into)
        assert server.asked.total() == 5  # 1 % of 400 may fail; the fifth ends it
    assert "5 of 5 requests failed" in caught.value.what
    with serving(echo) as server:
        tally, samples = ask(server.base_url, evaluation(400), into)
    assert tally.errors == 0  # what failed was never answered, so it was asked again
    assert len(samples) == 400


def test_a_server_that_is_gone_ends_the_evaluation_at_once(tmp_path: Path) -> None:
    server_gone = threading.Event()

    def watch() -> None:
        if server_gone.is_set():
            raise DiedLater("the server ended while it was in use", detail="the last log line")

    into = tmp_path / "s.jsonl"
    patient = Patience(backoff=Backoff(first=1.0, budget=120.0, attempts=3))
    with serving(echo) as server:
        base_url = server.base_url

        def dying(request: dict[str, Any], n: int) -> Said:
            if sum(server.asked.values()) > 10:
                server_gone.set()
                return Said(b"never sent", cut=0)
            return echo(request, n)

        server.answer = dying
        start = time.monotonic()
        with pytest.raises(DiedLater):
            ask(base_url, evaluation(200), into, patience=patient, watch=watch)
        assert time.monotonic() - start < 3
    samples = read_samples(into)
    assert 5 <= len(samples) <= 10
    assert all(one.error is None for one in samples)


def test_stopping_the_calling_thread_stops_the_requests(tmp_path: Path) -> None:
    class Stop(BaseException):
        pass

    def report(tally: Tally) -> None:
        if tally.done >= 3:
            raise Stop

    def slowly(request: dict[str, Any], n: int) -> Said:
        return Said(echo(request, n).body, seconds=0.05)

    into = tmp_path / "s.jsonl"
    with serving(slowly) as server:
        with pytest.raises(Stop):
            ask(server.base_url, evaluation(500, concurrency=2), into, report=report)
        assert not any(thread.name == "asking" for thread in threading.enumerate())
    assert 3 <= len(read_samples(into)) < 60


def test_progress_reports_accuracy(tmp_path: Path) -> None:
    seen: list[Tally] = []
    with serving(echo) as server:
        ask(server.base_url, evaluation(30), tmp_path / "s.jsonl", report=seen.append)
    assert seen[-1].done == 30
    assert seen[-1].accuracy == pytest.approx(20 / 30)


def test_truncated_answers_are_counted_apart_from_wrong_ones(tmp_path: Path) -> None:
    with serving(lambda _request, _n: chat("<think>let me see", finish="length", tokens=16)) as server:
        tally, samples = ask(server.base_url, evaluation(3, thinking=True), tmp_path / "s.jsonl")
    assert tally.truncated == 3
    assert {one.finish_reason for one in samples} == {"length"}
    assert all(one.error is None and one.answer is None for one in samples)


def test_one_token_that_was_asked_for_is_not_truncated(tmp_path: Path) -> None:
    with serving(lambda _request, _n: letters({"A": -1.0, "B": -0.5})) as server:
        tally, samples = ask(server.base_url, evaluation(3, task=LETTER), tmp_path / "s.jsonl")
    assert tally.truncated == 0
    assert {one.finish_reason for one in samples} == {None}
    assert tally.accuracy == 1.0


def test_an_endpoint_that_does_not_listen(tmp_path: Path) -> None:
    with serving(echo) as server:
        base_url = server.base_url
    with pytest.raises(SmokeFailed) as caught:
        ask(base_url, evaluation(10), tmp_path / "s.jsonl")
    assert "no response" in caught.value.why
    assert caught.value.hint


def test_samples_are_complete_lines_of_the_schema(tmp_path: Path) -> None:
    into = tmp_path / "deep" / "s.jsonl"
    with serving(echo) as server:
        ask(server.base_url, evaluation(3), into)
    assert all(set(json.loads(line)) == set(Sample.__dataclass_fields__) for line in into.read_text().splitlines())
