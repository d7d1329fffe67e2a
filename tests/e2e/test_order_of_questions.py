"""The real model's answers depend neither on the order of the questions nor on an interruption."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from flagrelease.contract.accuracy_results import Accuracy
from flagrelease.contract.context import Context
from flagrelease.contract.job import Job
from flagrelease.evaluation import chat
from flagrelease.evaluation.harnesses.own import OwnHarness
from flagrelease.evaluation.question import Question
from flagrelease.evaluation.request import EvaluationRequest, Tally
from flagrelease.ports.openai_client import Client
from flagrelease.serving.server import Served
from flagrelease.stages.accuracy.run import build_specs, evaluate
from flagrelease.verdict.samples import Sample, read_samples
from support.real_model import BENCHMARK, RealModel, real_model

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1200)]

QUESTIONS = 25


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RealModel:
    return real_model(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def job(model: RealModel) -> Job:
    made = model.asking(seed=1, questions=QUESTIONS)
    benchmark = replace(made.matrix.benchmarks[BENCHMARK], margin=0.15)
    return replace(made, matrix=replace(made.matrix, benchmarks={**made.matrix.benchmarks, BENCHMARK: benchmark}))


Said = dict[str, Any]
"""By question id, the choice of the server's response: text, finish reason and log-probabilities."""


def say(server: Served, questions: Sequence[Question], parameters: Mapping[str, Any]) -> Said:
    said = {}
    with Client(server.base_url) as client:
        for question in questions:
            body = json.loads(chat.request(server.model, question, 0, parameters))
            reply = client.post("/chat/completions", body)
            assert reply.status == 200, reply.body
            said[question.id] = json.loads(reply.body)["choices"][0]
    return said


def test_another_order_gives_the_same_bytes(model: RealModel, job: Job) -> None:
    (spec,) = build_specs(job, model.fresh())
    parameters = {**spec.evaluation.parameters, "logprobs": True, "top_logprobs": 5}
    shuffled = list(spec.questions)
    random.Random(1).shuffle(shuffled)
    with model.served() as server:
        first = say(server, spec.questions, parameters)
        assert say(server, shuffled, parameters) == first
        cached = {name: value for name, value in parameters.items() if name != "cache_prompt"}
        orders = [say(server, questions, cached) for questions in (spec.questions, shuffled)]
        assert orders[0] != orders[1], "the prompt cache makes no difference: this test shows nothing"
    with model.served() as server:
        part = shuffled[: QUESTIONS // 2]
        assert say(server, part, parameters) == {question.id: first[question.id] for question in part}


class Killed(BaseException):
    """Ends the process that evaluates, as far as its servers and files can tell."""


class Interrupted(OwnHarness):
    """Ends after each of `at` answers in all."""

    def __init__(self, at: Sequence[int]) -> None:
        super().__init__()
        self._at, self._answers = list(at), 0

    def evaluate(self, request: EvaluationRequest) -> Tally:
        before = self._answers

        def report(tally: Tally) -> None:
            self._answers = before + tally.asked
            if self._at and self._answers >= self._at[0]:
                del self._at[0]
                raise Killed

        return super().evaluate(replace(request, report=report))


def answers(context: Context, result: Accuracy) -> list[list[Sample]]:
    """Both sides' answers without their times."""
    files = {evidence.name: context.evidence.path(evidence) for evidence in result.evidence}
    sides = (files[f"accuracy/{name}samples.jsonl"] for name in ("", "baseline."))
    return [[replace(sample, latency_s=None) for sample in sorted(read_samples(path), key=_key)] for path in sides]


def _key(sample: Sample) -> tuple[str, str, int]:
    return sample.subset, sample.question_id, sample.repeat


def test_a_run_that_was_killed_twice_has_the_answers_of_one_that_was_not(model: RealModel, job: Job) -> None:
    whole, resumed = model.fresh(), model.fresh()
    expected = evaluate(job, whole)
    harness = Interrupted(at=(7, 20))
    for _ in range(2):
        with pytest.raises(Killed):
            evaluate(job, resumed, harness=harness)
    result = evaluate(job, resumed, harness=harness)
    assert answers(resumed, result) == answers(whole, expected)
    assert (result.verdict, result.benchmarks) == (expected.verdict, expected.benchmarks)
    assert result.questions_asked < expected.questions_asked
