"""Evaluations that are killed, or whose server restarts or is overloaded."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flagrelease.evaluation.transcripts import REPLIES
from flagrelease.verdict.samples import read_samples
from support.endpoints import Said, chat, letters, serving

pytestmark = pytest.mark.faults

QUESTIONS = 120

PROGRAM = f"""
import sys
from pathlib import Path
from flagrelease.evaluation.question import Question
from flagrelease.evaluation.spec import asks
from flagrelease.evaluation.tasks import TASKS
from flagrelease.evaluation.harnesses.own import OwnHarness
from flagrelease.evaluation.request import Endpoint, Evaluation, EvaluationRequest

questions = [
    Question(
        subset="all",
        id=f"q{{n}}",
        messages=({{"role": "user", "content": f"question {{n}}"}},),
        reference=("ABCD", "B"),
    )
    for n in range({QUESTIONS})
]
evaluation = Evaluation(
    benchmark="made-up", task=TASKS["multiple-choice"], asks=asks(questions, range(1)),
    parameters={{"temperature": 0, "max_tokens": 1}}, concurrency=4,
)
endpoint = Endpoint(base_url=sys.argv[1], model="m")
OwnHarness().evaluate(EvaluationRequest(endpoint=endpoint, evaluation=evaluation, into=Path(sys.argv[2])))
"""

# Both sides share one endpoint; the candidate is the model "b".
SEQUENTIAL = f"""
import sys
from pathlib import Path
from flagrelease.evaluation.question import Question
from flagrelease.evaluation.driver import ServedSide, run_design
from flagrelease.evaluation.tasks import TASKS
from flagrelease.verdict.group_sequential import PlannedLooks
from flagrelease.evaluation.harnesses.own import OwnHarness
from flagrelease.evaluation.request import Endpoint, Evaluation

questions = [
    Question(
        subset="all", id=f"q{{n}}", messages=({{"role": "user", "content": f"question {{n}}"}},), reference=1
    )
    for n in range({QUESTIONS})
]
evaluation = Evaluation(
    benchmark="made-up", task=TASKS["integer"], asks=(),
    parameters={{"temperature": 0.7, "max_tokens": 9}}, concurrency=4,
)
planned = PlannedLooks(
    questions=tuple((one.subset, one.id) for one in questions), margin=0.04, repeats=16, fail_alpha=0.05,
    reference=False, chance=0.0,
)
def side(model):
    return ServedSide(
        harness=OwnHarness(), server=lambda: (Endpoint(base_url=sys.argv[1], model=model), lambda: None),
        evaluation=evaluation, questions=questions, into=Path(sys.argv[2]) / f"{{model}}.jsonl",
        report=lambda look, tally: None,
    )
print(run_design(planned, side("a"), side("b")))
"""


# Questions as the accuracy stage asks llama.cpp's server.
GREEDY = f"""
import sys
from pathlib import Path
from flagrelease.config.engines import ENGINES
from flagrelease.config.matrix import Sampling
from flagrelease.evaluation.chat import concurrency, sampling_of
from flagrelease.evaluation.harnesses.own import OwnHarness
from flagrelease.evaluation.question import Question
from flagrelease.evaluation.request import Endpoint, Evaluation, EvaluationRequest
from flagrelease.evaluation.spec import asks
from flagrelease.evaluation.tasks import TASKS

task, engine = TASKS["exact"], ENGINES["llama_cpp"]
questions = [
    Question(
        subset="all", id=f"q{{n}}", messages=({{"role": "user", "content": f"question {{n}}"}},), reference="even"
    )
    for n in range({QUESTIONS})
]
parameters = sampling_of(task, Sampling(), engine)
evaluation = Evaluation(
    benchmark="made-up", task=task, asks=asks(questions, range(1)), parameters=parameters,
    concurrency=concurrency(parameters, engine, 4),
)
endpoint = Endpoint(base_url=sys.argv[1], model="m")
OwnHarness().evaluate(EvaluationRequest(endpoint=endpoint, evaluation=evaluation, into=Path(sys.argv[2])))
"""


def begin(base_url: str, into: Path, program: str = PROGRAM) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-c", program, base_url, str(into)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
    )


def slowly(_request: dict[str, Any], _n: int) -> Said:
    return Said(letters({"B": -0.1, "A": -2.0}).body, seconds=0.02)


@pytest.mark.parametrize("killed_after", [1, 25, 90])
def test_killed_at_a_question_it_asks_only_what_is_missing(killed_after: int, tmp_path: Path) -> None:
    into = tmp_path / "samples.jsonl"
    with serving(slowly) as server:
        first = begin(server.base_url, into)
        deadline = time.monotonic() + 60
        while not into.exists() or into.read_bytes().count(b"\n") < killed_after:
            assert time.monotonic() < deadline, "the evaluation did not get so far"
            time.sleep(0.002)
        first.send_signal(signal.SIGKILL)
        first.wait()
        kept = into.read_bytes()
        complete = kept.count(b"\n")
        assert killed_after <= complete < QUESTIONS
        server.asked.clear()
        assert begin(server.base_url, into).wait(60) == 0
        assert server.asked.total() == QUESTIONS - complete
    assert into.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    assert len(read_samples(into)) == QUESTIONS


def half_right(request: dict[str, Any], _n: int) -> Said:
    """A random answer by model, question and seed."""
    draw = random.Random(f"{request['model']} {request['messages'][0]['content']} {request['seed']}").random()
    return Said(chat(f"\\boxed{{{int(draw < 0.5)}}}").body, seconds=0.002)


def answer_files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.jsonl") if path.name != REPLIES]


def sequentially(base_url: str, folder: Path, killed_at: tuple[int, ...]) -> tuple[bytes, int]:
    """The decision and the number of answers, after killing the evaluation at each number of answers in `killed_at`."""
    for answers in killed_at:
        running = begin(base_url, folder, SEQUENTIAL)
        deadline = time.monotonic() + 60
        while sum(path.read_bytes().count(b"\n") for path in answer_files(folder)) < answers:
            assert running.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline, "the evaluation did not get so far"
            time.sleep(0.002)
        running.send_signal(signal.SIGKILL)
        running.wait()
    last = begin(base_url, folder, SEQUENTIAL)
    said, _ = last.communicate(timeout=120)
    assert last.returncode == 0
    return said, sum(len(read_samples(path)) for path in answer_files(folder))


@pytest.mark.slow  # a process for each look
def test_a_sequential_evaluation_killed_at_every_look_decides_the_same_from_the_same_answers(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    with serving(half_right) as server:
        decided, answers = sequentially(server.base_url, tmp_path / "whole", ())
        assert server.asked.total() == answers > 4 * QUESTIONS
        server.asked.clear()
        again, all_of_them = sequentially(server.base_url, tmp_path / "killed", (1, 130, 200, 300, 420))
        # A request in flight when its process was killed was asked and not answered; four at a time can be.
        assert answers <= server.asked.total() <= answers + 5 * 4
    assert (again, all_of_them) == (decided, answers)


def test_killed_and_resumed_it_has_the_answers_of_an_uninterrupted_evaluation(tmp_path: Path) -> None:
    """By a server with a prompt cache: an answer depends on the question before, unless the request turns that off."""
    before = [0]

    def remembering(request: dict[str, Any], _n: int) -> Said:
        number = int(request["messages"][0]["content"].rpartition(" ")[2])
        number, before[0] = number + before[0] * request.get("cache_prompt", True), number
        return Said(chat("even" if number % 2 == 0 else "odd").body, seconds=0.005)

    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    with serving(remembering) as server:
        assert begin(server.base_url, whole, GREEDY).wait(60) == 0
    with serving(remembering) as server:
        before[0] = 1
        for answers in (1, 40, 90):
            running = begin(server.base_url, killed, GREEDY)
            deadline = time.monotonic() + 60
            while not killed.exists() or killed.read_bytes().count(b"\n") < answers:
                assert time.monotonic() < deadline, "the evaluation did not get so far"
                time.sleep(0.002)
            running.send_signal(signal.SIGKILL)
            running.wait()
        assert begin(server.base_url, killed, GREEDY).wait(60) == 0
    first, resumed = ({sample.key: sample.answer for sample in read_samples(path)} for path in (whole, killed))
    assert len(first) == QUESTIONS
    assert resumed == first


def test_a_truncated_line_is_repaired(tmp_path: Path) -> None:
    into = tmp_path / "samples.jsonl"
    with serving(slowly) as server:
        assert begin(server.base_url, into).wait(60) == 0
        content = into.read_bytes()
        into.write_bytes(content[: len(content) // 2])
        complete = into.read_bytes().count(b"\n")
        server.asked.clear()
        assert begin(server.base_url, into).wait(60) == 0
        assert server.asked.total() == QUESTIONS - complete
    assert len(read_samples(into)) == QUESTIONS


def test_a_server_that_restarts_costs_no_answer(tmp_path: Path) -> None:
    """Every connection is dropped for a while, as while a server restarts."""
    began = time.monotonic()

    def restarting(request: dict[str, Any], n: int) -> Said:
        gone = 0.3 < time.monotonic() - began < 1.0
        return Said(b"x" * 50, cut=0) if gone else slowly(request, n)

    into = tmp_path / "samples.jsonl"
    with serving(restarting) as server:
        assert begin(server.base_url, into).wait(60) == 0
    samples = read_samples(into)
    assert len(samples) == QUESTIONS
    assert all(sample.error is None for sample in samples)


def test_a_server_that_is_overloaded_for_a_while_costs_no_answer(tmp_path: Path) -> None:
    refused: list[int] = []
    refusals = 16  # for four concurrent requests: more than the minimum of three attempts each

    def overloaded(request: dict[str, Any], n: int) -> Said:
        if len(refused) < refusals:
            refused.append(n)
            return Said(b"", status=429, headers={"Retry-After": "0.1"})
        return slowly(request, n)

    into = tmp_path / "samples.jsonl"
    with serving(overloaded) as server:
        assert begin(server.base_url, into).wait(60) == 0
    assert len(refused) == refusals
    assert all(sample.error is None for sample in read_samples(into))
