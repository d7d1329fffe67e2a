"""FlagEval's protocol, by the real client against a stand-in: submit, poll, resume, stop, and every way to fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flagrelease.errors import (
    DiedLater,
    EnvironmentFault,
    FlagreleaseError,
    HubUnavailable,
    SmokeFailed,
    UpstreamRefused,
)
from flagrelease.evaluation.harnesses.flageval import FlagEval, Pace, Progress, Submission, dataset_name, public_url
from flagrelease.ports.retry import Backoff
from support.flageval_stand_in import SCORES, Platform, platform

QUICK = Pace(polls=(), then=0.01, deadline=2.0, request=2.0, watch=0.01, backoff=Backoff(first=0.02, budget=0.3))
PATIENT = replace(QUICK, deadline=120.0, request=60.0, backoff=Backoff(first=0.02, budget=60.0))
ASKED = Submission(
    eval_url="http://chip.example:8000/v1/chat/completions",
    model="Qwen3-8B",
    eval_model="qwen3-8b-metax-flagos",
    base_model_name="Qwen3-8B",
    chip="MetaX C550",
    gen_kwargs="temperature=0.6,top_p=0.95",
    num_concurrent=8,
    thinking=True,
)


def evaluate(
    service: Platform, state: Path, *, token: str = "", pace: Pace = PATIENT, **calls: Any
) -> dict[str, float]:
    watched = {"watch": lambda: None, "report": lambda _progress: None, **calls}
    return FlagEval(service.url, token, pace).evaluate(ASKED, state, **watched)


def test_scores_of_every_data_set(tmp_path: Path) -> None:
    seen: list[Progress] = []
    with platform() as service:
        assert evaluate(service, tmp_path / "state.json", report=seen.append) == SCORES
    assert service.paths() == ["/evaluation", *["/evaluation_progress"] * 3, "/evaldiffs"]
    assert seen[0] == Progress(status="R", done=1, total=3, running="AIME 3/30")


def test_known_scores_are_not_requested_again(tmp_path: Path) -> None:
    with platform() as service:
        first = evaluate(service, tmp_path / "state.json")
        calls = len(service.calls)
        assert evaluate(service, tmp_path / "state.json") == first
    assert len(service.calls) == calls


def test_a_server_at_another_url_gets_a_new_request(tmp_path: Path) -> None:
    state, moved = tmp_path / "state.json", replace(ASKED, eval_url="http://chip.example:9000/v1/chat/completions")
    with platform(course=["F"]) as service:
        with pytest.raises(SmokeFailed):
            evaluate(service, state)
        service.course[:] = ["S"]
        client = FlagEval(service.url, "", QUICK)
        assert client.evaluate(moved, state, watch=lambda: None, report=lambda _progress: None) == SCORES
    assert service.paths()[-4:] == ["/stop_evaluation", "/evaluation", "/evaluation_progress", "/evaldiffs"]


def test_the_submission_has_the_fields_that_the_platform_expects(tmp_path: Path) -> None:
    with platform() as service:
        evaluate(service, tmp_path / "state.json")
    method, _, body = service.calls[0]
    (info,) = body["eval_infos"]
    assert (method, body["domain"], body["mode"]) == ("POST", "NLP", "FlagRelease")
    assert (info["eval_url"], info["eval_model"]) == (ASKED.eval_url, ASKED.eval_model)
    assert (info["gen_kwargs"], info["num_concurrent"], info["api_key"]) == (ASKED.gen_kwargs, 8, "EMPTY")
    assert service.calls[-1][::2] == ("GET", {"request_id": "request-0"})


def test_a_token_is_sent_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGRELEASE_FLAGEVAL_TOKEN", "hush-hush-hush")
    with platform(token="hush-hush-hush") as service:
        assert evaluate(service, tmp_path / "a.json", token="hush-hush-hush") == SCORES
        with pytest.raises(UpstreamRefused, match=r"refused /evaluation") as refused:
            evaluate(service, tmp_path / "b.json", token="another")
    assert "HTTP 401" in refused.value.why
    assert "hush" not in refused.value.line()
    assert refused.value.exit_code == 7


@pytest.mark.parametrize(("status", "headers"), [(429, {"Retry-After": "0.05"}), (500, {}), (503, {}), (0, {})])
def test_passing_failures_of_the_platform_are_retried(status: int, headers: dict[str, str], tmp_path: Path) -> None:
    def trouble(path: str, count: int) -> tuple[int, dict[str, str], bytes] | None:
        return (status, headers, b"busy") if path == "/evaluation_progress" and count in (1, 2) else None

    with platform(trouble=trouble) as service:
        assert evaluate(service, tmp_path / "state.json") == SCORES
    assert service.paths().count("/evaluation") == 1


def test_a_platform_that_stays_down_is_an_error_and_the_request_is_kept(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    down = True
    with platform(trouble=lambda path, _: (502, {}, b"") if down and path != "/evaluation" else None) as service:
        with pytest.raises(HubUnavailable, match="does not answer /evaluation_progress"):
            evaluate(service, state, pace=QUICK)
        assert json.loads(state.read_text())["request_id"] == "request-0"
        down = False
        assert evaluate(service, state) == SCORES
    assert service.paths().count("/evaluation") == 1


def test_a_start_that_may_have_arrived_is_not_sent_twice(tmp_path: Path) -> None:
    with (
        platform(trouble=lambda *_: (0, {}, b"")) as service,
        pytest.raises(HubUnavailable, match="did not confirm whether") as refused,
    ):
        evaluate(service, tmp_path / "state.json")
    assert service.paths() == ["/evaluation"]
    assert "check the platform before you run again" in refused.value.hint
    with pytest.raises(HubUnavailable, match="does not answer /evaluation"):  # nothing listens: surely not arrived
        evaluate(service, tmp_path / "state.json", pace=QUICK)


def test_a_start_that_is_put_off_is_sent_again(tmp_path: Path) -> None:
    trouble = (429, {"Retry-After": "0.01"}, b"later")
    with platform(trouble=lambda path, n: trouble if path == "/evaluation" and n == 1 else None) as service:
        assert evaluate(service, tmp_path / "state.json") == SCORES
    assert service.paths().count("/evaluation") == 2


@pytest.mark.parametrize(("status", "why"), [("F", "it failed"), ("C", "cancelled"), ("OOR", "out of retries")])
def test_a_failed_evaluation_is_an_error_and_resumed_by_the_next_run(status: str, why: str, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    with platform(course=["R", status]) as service:
        with pytest.raises(SmokeFailed, match="did not finish request-0") as failed:
            evaluate(service, state)
        assert why in failed.value.why
        assert "1 of 3 data sets" in failed.value.why
        assert "/resume_evaluation" not in service.paths()
        service.course[:] = [status, "R", "S"]
        assert evaluate(service, state) == SCORES
        assert service.paths().count("/resume_evaluation") == service.paths().count("/evaluation") == 1


def test_an_evaluation_that_never_ends_is_stopped_at_the_deadline(tmp_path: Path) -> None:
    pace = Pace(polls=(), then=0.01, deadline=0.1, watch=0.01)
    with platform(course=["R"]) as service, pytest.raises(HubUnavailable, match=r"within 0 s"):
        evaluate(service, tmp_path / "state.json", pace=pace)
    assert service.paths()[-1] == "/stop_evaluation"
    assert (tmp_path / "state.json").exists()


def test_a_server_of_ours_that_dies_stops_the_evaluation_there(tmp_path: Path) -> None:
    def watch() -> None:
        raise DiedLater("the server is gone")

    with platform(course=["R"]) as service, pytest.raises(DiedLater):
        evaluate(service, tmp_path / "state.json", watch=watch)
    assert service.paths()[-1] == "/stop_evaluation"


@pytest.mark.parametrize("score", [float("nan"), None, "0.73", 73.3, -0.1, True])
def test_a_score_must_be_a_fraction(score: Any, tmp_path: Path) -> None:
    with platform(scores={"AIME_0fewshot_@avg1": score}) as service, pytest.raises(UpstreamRefused) as refused:
        evaluate(service, tmp_path / "state.json")
    assert "not a fraction of 1" in refused.value.why


@pytest.mark.parametrize(
    "body",
    [b"<html>502</html>", b"[]", b"[" * 100_000, b'{"err_code": 3, "err_msg": "no such thing"}'],
    ids=lambda body: repr(body[:20]),
)
def test_garbage_is_refused(body: bytes, tmp_path: Path) -> None:
    with (
        platform(trouble=lambda path, _: (200, {}, body) if path == "/evaldiffs" else None) as service,
        pytest.raises(UpstreamRefused),
    ):
        evaluate(service, tmp_path / "state.json")


def test_an_invalid_url() -> None:
    for url in ("flageval.example:5050", "ftp://flageval.example"):
        with pytest.raises(FlagreleaseError) as refused:
            FlagEval(url, pace=QUICK).submit(ASKED)
        assert isinstance(refused.value, EnvironmentFault | UpstreamRefused)


def test_names() -> None:
    named = ("MUSR_0fewshot_@avg", "LiveBench-0fewshot_@avg1", "math_500_0fewshot_@avg1", "GPQA_Diamond", "MATH-500")
    assert [dataset_name(one) for one in named] == ["musr", "livebench", "math500", "gpqadiamond", "math500"]
    assert public_url("http://h:{port}/v1/chat/completions", "http://127.0.0.1:8017/v1") == (
        "http://h:8017/v1/chat/completions"
    )
