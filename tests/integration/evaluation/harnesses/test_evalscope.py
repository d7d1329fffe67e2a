"""The real evalscope, where FLAGRELEASE_EVALSCOPE names one, against a loopback endpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from flagrelease.errors import DiedLater, SmokeFailed
from flagrelease.evaluation.harness import Harness
from flagrelease.evaluation.harnesses.evalscope import EvalscopeHarness
from flagrelease.evaluation.harnesses.own import OwnHarness
from flagrelease.evaluation.question import Question
from flagrelease.evaluation.request import Endpoint, Evaluation, EvaluationRequest, Tally
from flagrelease.evaluation.spec import asks
from flagrelease.evaluation.tasks import TASKS
from flagrelease.verdict.samples import Sample, read_samples
from support.endpoints import Said, chat, serving

PROGRAM = os.environ.get("FLAGRELEASE_EVALSCOPE", "")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAM, reason="FLAGRELEASE_EVALSCOPE does not name evalscope's program"),
]
OPTIONS = "\n\nA) one\nB) two\nC) three"


def whole(said: Said) -> Said:
    """evalscope wants every field of a completion."""
    rest = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    return Said(json.dumps({**json.loads(said.body), **rest}).encode())


def number(request: dict[str, Any]) -> int:
    return int(request["messages"][-1]["content"].split()[1])


def evaluation(n: int, *, task: str = "integer", repeats: int = 1) -> Evaluation:
    questions = [
        Question(
            subset="all",
            id=f"q{at}",
            messages=({"role": "user", "content": f"Question {at} " + (OPTIONS if task != "integer" else "?")},),
            reference=at if task == "integer" else ("ABC", "ABC"[at % 3]),
        )
        for at in range(n)
    ]
    return Evaluation(
        benchmark="made-up",
        task=TASKS[task],
        asks=asks(questions, range(repeats)),
        parameters={"temperature": 0.7, "max_tokens": 16},
        concurrency=4,
    )


def ask(harness: Harness, base_url: str, what: Evaluation, into: Path, **calls: Any) -> tuple[Tally, list[Sample]]:
    endpoint = Endpoint(base_url=base_url, model="m", key="hush-hush")
    tally = harness.evaluate(EvaluationRequest(endpoint=endpoint, evaluation=what, into=into, **calls))
    return tally, read_samples(into)


@pytest.mark.parametrize("task", ["integer", "multiple-choice-cot"])
def test_it_grades_as_we_do(task: str, tmp_path: Path) -> None:
    def answer(request: dict[str, Any], _n: int) -> Said:
        at = number(request)
        said = f"Hm. \\boxed{{{at + (at % 4 == 0)}}}" if task == "integer" else f"So.\n\nANSWER: {'AB'[at % 2]}"
        return whole(chat(said, finish="length" if at == 5 else "stop"))

    what = evaluation(9, task=task, repeats=2)
    with serving(answer) as server:
        theirs = ask(EvalscopeHarness(PROGRAM), server.base_url, what, tmp_path / "theirs.jsonl")[1]
        assert set(server.asked.values()) == {2}
        ours = ask(OwnHarness(), server.base_url, what, tmp_path / "ours.jsonl")[1]
    told = [{(s.key, s.prompt_sha256, s.correct, s.answer, s.finish_reason) for s in side} for side in (ours, theirs)]
    assert told[0] == told[1]
    assert any(s.correct for s in theirs)
    assert not all(s.correct for s in theirs)


def test_stopped_in_the_middle_it_asks_only_what_is_missing(tmp_path: Path) -> None:
    def answer(request: dict[str, Any], _n: int) -> Said:
        said = whole(chat(f"\\boxed{{{number(request)}}}"))
        return Said(said.body, seconds=0.5)

    def watch() -> None:
        if sum(server.asked.values()) >= 12:
            raise DiedLater("the server is gone")

    what, into = evaluation(24), tmp_path / "s.jsonl"
    with serving(answer) as server:
        with pytest.raises(DiedLater):
            ask(EvalscopeHarness(PROGRAM), server.base_url, what, into, watch=watch)
        before = sum(server.asked.values())
        tally, samples = ask(EvalscopeHarness(PROGRAM), server.base_url, what, into)
        again = sum(server.asked.values()) - before
    assert len(samples) == tally.score == 24
    assert again <= 24 - 12 + 8  # what was under way is lost, and no more
    assert {path.name for path in tmp_path.iterdir()} == {"s.jsonl", "replies.jsonl"}


def test_requests_that_failed_are_counted_and_asked_again(tmp_path: Path) -> None:
    def answer(request: dict[str, Any], _n: int) -> Said:
        return Said(b"{}", status=400) if broken and number(request) < 5 else whole(chat("\\boxed{1}"))

    what, into, broken = evaluation(8), tmp_path / "s.jsonl", True
    with serving(answer) as server:
        with pytest.raises(SmokeFailed, match="5 of 8 requests failed"):
            ask(EvalscopeHarness(PROGRAM), server.base_url, what, into)
        assert sum(one.error is None for one in read_samples(into)) == 3
        broken = False
        server.asked.clear()
        _, samples = ask(EvalscopeHarness(PROGRAM), server.base_url, what, into)
    assert sum(server.asked.values()) == 5
    assert all(one.error is None for one in samples)
