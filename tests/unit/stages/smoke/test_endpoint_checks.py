"""Smoke judges what a served model says, not only the form of its answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from flagrelease.ports.openai_client import Client
from flagrelease.serving.inside import CheckFailed
from flagrelease.stages.smoke.endpoint_checks import CHECKS, FACTS, answers, make_bench, mentions
from support import finished_cell as given
from support.contexts import Executing, served
from support.endpoints import Endpoint, Said, chat, serving

GOOD = {
    "How many days are in a week?": "A week is approximately 7 days.",
    "What is the opposite of hot?": "The opposite of hot is cold. This is a fundamental concept",
    "What is 2 + 2?": "The answer to this classic math problem is 4.",
    "Which animal says meow?": 'The animal that says "meow" is a cat.',
    "What color is the sky on a clear day?": "<think>Easy.</think>The sky is often a vibrant shade of blue.",
}
"""What SmolLM2-135M-Instruct says, the last one as by a model that thinks."""


def checked(says: Callable[[str], str], engine: Any = "llama_cpp") -> tuple[str, Endpoint]:
    def answer(request: dict[str, Any], _n: int) -> Said:
        said = chat(says(request["messages"][0]["content"]))
        return replace(said, body=said.body.replace(b'{"choices"', b'{"model": "m", "choices"', 1))

    model = given.model()
    model = replace(model, serve=replace(model.serve, engine=engine))
    with serving(answer) as endpoint, Client(endpoint.base_url) as client:
        bench = make_bench(served(Executing(lambda _argv: "")), client, model, long_tokens=64)
        return answers(bench), endpoint


def test_it_is_one_of_the_checks() -> None:
    assert dict(CHECKS)["answers"] is answers
    assert [question for question, _ in FACTS] == list(GOOD)


def test_right_answers_pass() -> None:
    detail, endpoint = checked(GOOD.__getitem__)
    assert detail == "5 of 5 easy questions are answered right"
    assert all(request["temperature"] == 0 for request in endpoint.requests)
    assert all("chat_template_kwargs" not in request for request in endpoint.requests)


def test_one_wrong_answer_is_allowed() -> None:
    detail, _ = checked(lambda question: GOOD[question].replace("cold", "warm"))
    assert detail == "4 of 5 easy questions are answered right"


def test_fluent_nonsense_is_refused_and_quoted() -> None:
    wrong = {"How many days are in a week?": "A week is a miliconasty of days", "Which animal says meow?": "Cattle do."}
    with pytest.raises(CheckFailed, match=r"3 of 5 .* at least 4") as caught:
        checked(lambda question: wrong.get(question, GOOD[question]))
    assert "How many days are in a week? 'A week is a miliconasty of days'" in str(caught.value)
    assert "Which animal says meow? 'Cattle do.'" in str(caught.value)


def test_a_model_that_can_think_is_asked_not_to() -> None:
    _, endpoint = checked(GOOD.__getitem__, engine="vllm")
    asked = [request for request in endpoint.requests if "chat_template_kwargs" in request]
    assert len(asked) == len(FACTS)
    assert all(request["chat_template_kwargs"] == {"enable_thinking": False} for request in asked)


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [("Seven days", "7|seven", True), ("17 days", "7|seven", False), ("a cattle", "cat", False), ("CAT!", "cat", True)],
)
def test_a_word_is_found_as_a_word(text: str, words: str, found: bool) -> None:
    assert mentions(text, words) is found
