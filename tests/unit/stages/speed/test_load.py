"""The load metrics, and the parsers and cleanup of the load tools."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flagrelease.config.matrix import Slo
from flagrelease.contract.speed_results import Spread
from flagrelease.errors import SmokeFailed
from flagrelease.ports import command
from flagrelease.stages.speed import load_evalscope, load_vllm
from flagrelease.stages.speed.load import Load, LoadPoint, Request, figures, spread
from flagrelease.stages.speed.load_own import StreamingLoad
from support.streaming_endpoint import Pace, streaming

POINT = LoadPoint(input_tokens=16, output_tokens=8, concurrency=2, requests=6)


def request(**changes: Any) -> Request:
    values: dict[str, Any] = {"start_s": 0.0, "ttft_s": 0.2, "e2e_s": 1.1, "input_tokens": 100, "output_tokens": 10}
    return Request(**{**values, **changes})


def proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send what asks the environment for a proxy to a port where nothing listens."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "example.org")


def test_no_load_goes_through_a_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    proxied(monkeypatch)
    with streaming(Pace()) as base_url:
        (load,) = StreamingLoad(base_url, "m").measure([replace(POINT, requests=1, concurrency=1)], 1)
    assert [request.error for request in load.requests] == [""]
    program = tmp_path / "evalscope"
    program.write_text(f"#!/bin/sh\necho $NO_PROXY $no_proxy > {tmp_path}/seen\n")
    program.chmod(0o755)
    with pytest.raises(SmokeFailed, match="0 request tables"):
        load_evalscope.EvalscopePerf(
            str(program), command.run, base_url="http://127.0.0.1:1/v1", model="m", tokenizer=tmp_path
        ).measure([POINT], 1)
    assert (tmp_path / "seen").read_text().split() == ["example.org,localhost,127.0.0.1,::1"] * 2


def test_tpot_leaves_the_first_token_out() -> None:
    assert request().tpot_s == pytest.approx((1.1 - 0.2) / 9)
    assert request(output_tokens=1).tpot_s is None
    assert request(error="x").tpot_s is None


def test_rates_count_what_finished_and_goodput_what_was_in_time() -> None:
    run = Load(
        requests=(request(), request(ttft_s=0.9), request(e2e_s=5.0), request(error="HTTP 503", output_tokens=0)),
        seconds=4.0,
        itl_s=Spread(median=0.1, p99=0.2),
    )
    made = figures([run], Slo(ttft=0.5, tpot=0.2))
    assert (made.requests, made.failed) == (4, 1)
    assert made.requests_per_s == pytest.approx(3 / 4)
    assert made.output_tokens_per_s == pytest.approx(30 / 4)
    assert made.total_tokens_per_s == pytest.approx(330 / 4)
    assert made.goodput_per_s == pytest.approx(1 / 4)
    assert made.ttft_s == Spread(median=0.2, p99=0.9)
    assert made.e2e_s == Spread(median=1.1, p99=5.0)


def test_the_quotient_of_rates_is_the_ratio_that_is_judged() -> None:
    from flagrelease.verdict.speed import speed

    def runs(*seconds: float) -> list[Load]:
        return [Load(requests=(request(),), seconds=value, itl_s=Spread(median=0.1, p99=0.1)) for value in seconds]

    before, after = runs(1.0, 1.3, 0.8), runs(1.2, 1.1, 0.9)
    judged = speed([one.output_tokens_per_s for one in before], [one.output_tokens_per_s for one in after])
    shown = [figures(one, Slo()).output_tokens_per_s for one in (before, after)]
    assert shown[1] / shown[0] == pytest.approx(judged.ratio)


def test_nearest_rank() -> None:
    assert spread(range(1, 101)) == Spread(median=50.5, p99=99)
    assert spread([3.0]) == Spread(median=3.0, p99=3.0)
    with pytest.raises(SmokeFailed):
        spread([])


def test_a_streaming_server_is_measured_at_its_pace() -> None:
    pace = Pace(first=0.06, each=0.01)
    with streaming(pace) as base_url:
        run = StreamingLoad(base_url, "m").measure([POINT], 7)[0]
    made = figures([run], Slo())
    assert pace.most_in_flight == POINT.concurrency
    assert len(run.finished) == POINT.requests
    # Sleeping never takes less; how much more it takes is up to the machine.
    assert 0.06 <= made.ttft_s.median < 0.16
    assert 0.01 <= made.tpot_s.median < 0.03
    assert 0.01 <= made.itl_s.median < 0.03
    assert made.e2e_s.median == pytest.approx(made.ttft_s.median + 7 * made.tpot_s.median, rel=0.3)
    assert run.output_tokens_per_s == pytest.approx(6 * 8 / run.seconds)
    assert {(one.input_tokens, one.output_tokens) for one in run.requests} == {(16, 8)}


def test_prompts_follow_the_seed_and_answers_are_not_ended_early() -> None:
    pace = Pace(first=0.0, each=0.0)
    with streaming(pace) as base_url:
        for seed in (1, 1, 2):
            StreamingLoad(base_url, "m").measure([POINT], seed)
    prompts = [sorted(one["prompt"] for one in pace.requests[at : at + 6]) for at in (0, 6, 12)]
    assert prompts[0] == prompts[1] != prompts[2]
    assert {len(one["prompt"]) for one in pace.requests} == {16}
    assert all(one["ignore_eos"] and one["max_tokens"] == 8 and one["stream"] for one in pace.requests)


@pytest.mark.parametrize(("pace", "message"), [(Pace(refuse=3), "HTTP 503: busy"), (Pace(cut=3), "ended early")])
def test_what_failed_is_in_the_run_with_its_reason(pace: Pace, message: str) -> None:
    with streaming(pace) as base_url:
        run = StreamingLoad(base_url, "m").measure([POINT], 1)[0]
    failed = [one for one in run.requests if one.error]
    assert len(run.requests) == POINT.requests
    assert len(failed) == (POINT.requests if pace.cut else 2)
    assert {message in one.error for one in failed} == {True}
    if pace.cut:
        with pytest.raises(SmokeFailed):  # no finished requests, so no measurements
            figures([run], Slo())
    assert {(one.output_tokens, one.e2e_s) for one in failed} == {(0, 0.0)}


def raw_load(raw: bytes, status: int = 200) -> Load:
    with streaming(Pace(raw=raw, status=status)) as base_url:
        return StreamingLoad(base_url, "m").measure([replace(POINT, requests=2)], 1)[0]


def events(*values: Any) -> bytes:
    return b"".join(f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode() for value in values)


def token(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"text": text, "finish_reason": finish}]}


TWO = (token("one"), token(" two", "length"))
COUNTED = {"choices": [], "usage": {"prompt_tokens": 16, "completion_tokens": 2}}


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_a_token_that_is_a_separator_does_not_fail_its_request(separator: str) -> None:
    run = raw_load(events(token(f"one{separator}"), TWO[1], COUNTED) + b"data: [DONE]")
    assert [(one.error, one.input_tokens, one.output_tokens) for one in run.requests] == [("", 16, 2)] * 2


def failed_with(raw: bytes, status: int = 200) -> str:
    run = raw_load(raw, status)
    (made,) = {(one.output_tokens, one.e2e_s, one.error) for one in run.requests}
    assert made[:2] == (0, 0.0)
    return made[2]


@pytest.mark.parametrize(
    ("usage", "error"),
    [
        ({"prompt_tokens": None, "completion_tokens": None}, "prompt_tokens is None"),
        ({"prompt_tokens": 16}, "completion_tokens is None"),
        ({"prompt_tokens": 16, "completion_tokens": "2"}, "completion_tokens is '2'"),
        ({"prompt_tokens": 16, "completion_tokens": 2.5}, "completion_tokens is 2.5"),
        ({"prompt_tokens": 16, "completion_tokens": True}, "completion_tokens is True"),
        ({"prompt_tokens": 16, "completion_tokens": -2}, "completion_tokens is -2"),
        ({"prompt_tokens": 16, "completion_tokens": 0}, "completion_tokens is 0"),
        ({"prompt_tokens": 10**400, "completion_tokens": 2}, "prompt_tokens is 1000"),
        ({"prompt_tokens": [16], "completion_tokens": 2}, "prompt_tokens is [16]"),
        ([16, 2], "prompt_tokens is None"),
        (7, "prompt_tokens is None"),
        (None, "prompt_tokens is None"),
    ],
)
def test_an_answer_whose_tokens_are_not_counted_is_a_failed_request(usage: Any, error: str) -> None:
    failed = failed_with(events(*TWO, {"choices": [], "usage": usage}) + b"data: [DONE]\n\n")
    assert failed.startswith(f"the server does not count the tokens: {error}")
    assert len(failed) <= 200


@pytest.mark.parametrize(
    ("raw", "status", "error"),
    [
        (events(TWO[0], {"error": {"message": "CUDA out of memory"}}), 200, "reports an error: CUDA out of memory"),
        (b'{"error": {"message": "CUDA out of memory"}}', 500, "HTTP 500: CUDA out of memory"),
        (b'{"error": {"message": "CUDA out of memory"}}', 200, "HTTP 200: CUDA out of memory"),
        (b"data: " + b"[" * 100_000, 200, "protocol violation: ValueError: the JSON of an event is nested too deeply"),
        (events({"choices": [5]}), 200, "protocol violation"),
        (events(*TWO, COUNTED), 200, "the stream ended early"),
    ],
)
def test_a_failed_request_says_why(raw: bytes, status: int, error: str) -> None:
    assert error in failed_with(raw, status)


DETAILED = {
    "duration": 2.0,
    "completed": 2,
    "input_lens": [16, 16, 16],
    "output_lens": [3, 3, 0],
    "ttfts": [0.1, 0.2, 0.0],
    "itls": [[0.05, 0.05], [0.1, 0.1], []],
    "latencies": [0.2, 0.4, 0.0],
    "start_times": [100.0, 100.5, 101.0],
    "errors": ["", "", "Traceback …\nTimeoutError: late"],
}


@pytest.mark.parametrize("left_out", [(), ("latencies", "start_times")])
def test_vllm_results_are_read_by_our_definitions(left_out: tuple[str, ...]) -> None:
    run = load_vllm.parse(json.dumps({name: value for name, value in DETAILED.items() if name not in left_out}))
    made = figures([run], Slo(ttft=0.15, tpot=1.0))
    assert [one.error for one in run.requests] == ["", "", "TimeoutError: late"]
    assert [one.e2e_s for one in run.finished] == pytest.approx([0.2, 0.4])
    assert made.tpot_s.median == pytest.approx(0.075)
    assert (run.itl_s.median, run.itl_s.p99) == pytest.approx((0.075, 0.1))
    assert made.output_tokens_per_s == pytest.approx(3.0)
    assert made.goodput_per_s == pytest.approx(0.5)
    assert [one.start_s for one in run.requests] == ([0.0, 0.5, 1.0] if not left_out else [0.0] * 3)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"ttfts": [1], "itls": [[1]], "input_lens": [], "output_lens": []}'])
def test_vllm_results_that_cannot_be_read_say_so(text: str) -> None:
    with pytest.raises(SmokeFailed) as caught:
        load_vllm.parse(text)
    assert "cannot be read" in caught.value.what


def vllm(**changes: Any) -> Load:
    return load_vllm.parse(json.dumps({**DETAILED, **changes}))


NOT_SECONDS = [-0.5, math.nan, math.inf, -math.inf, 10**400, "1", None, True, [1.0]]


@pytest.mark.parametrize(
    "changes",
    [
        {"duration": 0},
        {"duration": 0.0},
        *({"duration": value} for value in NOT_SECONDS),
        *({"ttfts": [value, 0.2, 0.0]} for value in NOT_SECONDS),
        *({"latencies": [value, 0.4, 0.0]} for value in NOT_SECONDS),
        *({"itls": [[0.05, value], [0.1, 0.1], []]} for value in NOT_SECONDS),
        *({"start_times": [value, 100.5, 101.0]} for value in NOT_SECONDS if value not in (-0.5, True)),
        {"ttfts": [0.3, 0.2, 0.0]},  # after the last token, so that the time per token is negative
        {"input_lens": [16.5, 16, 16]},
        {"output_lens": [-3, 3, 0]},
        {"output_lens": [True, 3, 0]},
        {"output_lens": [10**400, 3, 0]},
        {"latencies": None, "itls": [[10**400, 0.05], [0.1, 0.1], []]},
        {"errors": [5, "", ""]},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_vllm_results_that_nobody_measured_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SmokeFailed, match="cannot be read") as caught:
        vllm(**changes)
    assert caught.value.why
    assert caught.value.hint


def test_vllm_results_of_deep_json_are_refused() -> None:
    with pytest.raises(SmokeFailed, match="cannot be read"):
        load_vllm.parse('{"ttfts": ' + "[" * 100_000)


def test_a_first_token_that_vllm_notes_after_the_last_one_is_both() -> None:
    """It reads its clock once more for the first token, which shows where one event has all tokens."""
    run = vllm(ttfts=[0.200004, 0.2, 0.0])
    assert run.requests[0].tpot_s == 0
    assert run.requests[0].ttft_s == run.requests[0].e2e_s == 0.2


def test_a_vllm_run_that_failed_says_why() -> None:
    run = vllm(output_lens=[0, 0, 0], itls=[[], [], []], errors=["HTTP 500", "", "late"])
    assert [one.error for one in run.requests] == ["HTTP 500", "failed", "late"]
    assert [one.input_tokens for one in run.requests] == [16, 16, 16]


def test_vllm_runs_inside_and_cleans_up() -> None:
    ran: list[Sequence[str]] = []

    def execute(argv: Sequence[str], *, seconds: float) -> tuple[int, str]:
        ran.append(argv)
        return 0, json.dumps(DETAILED) if argv[0] == "cat" else ""

    load_vllm.VllmBench(execute, model="M", tokenizer="/nfs/models/M", port=8001).measure([POINT, POINT], 5)
    assert ran[0][:2] == ["python3", "-c"]
    lines = json.loads(ran[0][3])
    assert len(lines) == 2
    line = " ".join(lines[0])
    assert line.startswith("vllm bench serve --backend openai --base-url http://127.0.0.1:8001 ")
    for part in ("--seed 5", "--num-prompts 6", "--num-warmups 2", "--max-concurrency 2", "--save-detailed"):
        assert part in line
    assert [argv[0] for argv in ran] == ["python3", "cat", "cat", "rm"]


def test_vllm_takes_turns_between_two_servers_in_one_start() -> None:
    """The order alternates; each load is returned on the side of its server."""
    lines: list[list[str]] = []

    def execute(argv: Sequence[str], *, seconds: float) -> tuple[int, str]:
        if argv[0] == "python3":
            lines.extend(json.loads(argv[3]))
        if argv[0] != "cat":
            return 0, ""
        (line,) = (line for line in lines if argv[1].endswith(line[line.index("--result-filename") + 1]))
        port = int(line[line.index("--base-url") + 1].rpartition(":")[2])
        return 0, json.dumps(DETAILED | {"duration": port})

    own, other = (load_vllm.VllmBench(execute, model="M", tokenizer="/m", port=port) for port in (8001, 8002))
    pairs = own.in_turns(other, [POINT, POINT, POINT], 5)
    asked = [line[line.index("--base-url") + 1][-4:] for line in lines]
    assert asked == ["8001", "8002", "8002", "8001", "8001", "8002"]
    assert [(first.seconds, second.seconds) for first, second in pairs] == [(8001, 8002)] * 3


def test_vllm_that_fails_says_its_last_line() -> None:
    bench = load_vllm.VllmBench(lambda *_a, **_k: (1, "x\nValueError: no\n"), model="M", tokenizer="/m", port=1)
    with pytest.raises(SmokeFailed) as caught:
        bench.measure([POINT], 5)
    assert caught.value.why == "ValueError: no"


def table(path: Path, rows: Sequence[tuple[Any, ...]]) -> Path:
    """A request table with the columns of evalscope 1.14.1."""
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE result(request TEXT, start_time REAL, inter_token_latencies TEXT, success INTEGER, "
            "response_messages TEXT, completed_time REAL, latency REAL, first_chunk_latency REAL, "
            "prompt_tokens INTEGER, completion_tokens INTEGER, max_gpu_memory_cost REAL, time_per_output_token REAL, "
            "request_id TEXT, is_stream INTEGER)"
        )
        connection.executemany(
            "INSERT INTO result(start_time, completed_time, latency, first_chunk_latency, prompt_tokens, "
            "completion_tokens, success, inter_token_latencies) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
    connection.close()
    return path


def test_evalscope_requests_are_read_by_our_definitions(tmp_path: Path) -> None:
    rows = [
        (50.0, 51.0, 1.0, 0.2, 16, 5, 1, "[0.2, 0.2, 0.2, 0.2]"),
        (50.5, 52.0, 1.5, 0.3, 16, 5, 1, "[0.3, 0.3, 0.3, 0.3]"),
        (51.0, 51.5, None, None, None, None, 0, "[]"),
    ]
    run = load_evalscope.parse(table(tmp_path / "benchmark_data.db", rows))
    assert run.seconds == 2.0
    assert [one.error for one in run.requests] == ["", "", "failed"]
    assert [one.tpot_s for one in run.finished] == pytest.approx([0.2, 0.3])
    assert run.output_tokens_per_s == 5.0
    assert run.itl_s == Spread(median=0.25, p99=0.3)


def test_evalscope_tables_that_say_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SmokeFailed):
        load_evalscope.parse(table(tmp_path / "empty.db", []))
    (tmp_path / "bad.db").write_text("not a database, whatever its name says")
    with pytest.raises(SmokeFailed) as caught:
        load_evalscope.parse(tmp_path / "bad.db")
    assert "cannot be read" in caught.value.what


GOOD = (50.0, 51.0, 1.0, 0.2, 16, 5, 1, "[0.2, 0.2, 0.2, 0.2]")


@pytest.mark.parametrize(
    "row",
    [
        (50.0, 50.0, *GOOD[2:]),  # no duration
        (50.0, 49.0, *GOOD[2:]),
        (50.0, None, *GOOD[2:]),
        (None, *GOOD[1:]),
        ("a", *GOOD[1:]),
        (*GOOD[:2], math.inf, *GOOD[3:]),
        (*GOOD[:2], None, *GOOD[3:]),
        (*GOOD[:3], -0.2, *GOOD[4:]),
        (*GOOD[:3], 1.2, *GOOD[4:]),
        (*GOOD[:4], None, *GOOD[5:]),
        (*GOOD[:5], None, *GOOD[6:]),
        (*GOOD[:5], 2.5, *GOOD[6:]),
        (*GOOD[:7], "[NaN]"),
        (*GOOD[:7], "[null]"),
        (*GOOD[:7], "7"),
        (*GOOD[:7], "{"),
        (*GOOD[:7], "[" * 100_000),
    ],
    ids=lambda row: str(row)[:60],
)
def test_evalscope_tables_that_nobody_measured_are_refused(row: tuple[Any, ...], tmp_path: Path) -> None:
    with pytest.raises(SmokeFailed, match="cannot be read") as caught:
        load_evalscope.parse(table(tmp_path / "benchmark_data.db", [row]))
    assert caught.value.why
    assert caught.value.hint
