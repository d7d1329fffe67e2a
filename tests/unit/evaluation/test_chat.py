"""Responses of chat endpoints: which are answers, and which are failed requests with the server's words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagrelease.evaluation.chat import AbortedError, InvalidResponseError, parse
from flagrelease.evaluation.question import Reply
from flagrelease.evaluation.tasks import TASKS

TASK = TASKS["multiple-choice-cot"]


def body(message: Any, finish: Any = "stop", tokens: Any = 5) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": tokens}}).encode()


def said(content: Any, finish: Any = "stop", **more: Any) -> Reply:
    return parse(body({"role": "assistant", "content": content, **more}, finish), TASK)


@pytest.mark.parametrize(
    ("reason", "finish"), [("stop", "stop"), ("eos_token", "stop"), ("length", "length"), ("max_tokens", "length")]
)
def test_an_answer_ends_by_itself_or_at_the_limit(reason: str, finish: str) -> None:
    assert said("ANSWER: C", reason) == Reply(text="ANSWER: C", finish_reason=finish, completion_tokens=5)


@pytest.mark.parametrize("reason", ["abort", "error", "cancelled"])
def test_an_answer_that_the_server_gave_up_is_a_failed_request_that_may_be_repeated(reason: str) -> None:
    with pytest.raises(AbortedError, match=reason):
        said("We look at the", reason)


@pytest.mark.parametrize("reason", ["content_filter", "tool_calls", "function_call", "", None, 3, {"type": "abort"}])
def test_an_answer_that_ended_otherwise_is_a_failed_request(reason: Any) -> None:
    with pytest.raises(InvalidResponseError, match="finish_reason") as caught:
        said("We look at the", reason)
    assert not isinstance(caught.value, AbortedError)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_an_answer_that_a_server_took_for_reasoning_is_read(name: str) -> None:
    assert said(None, **{name: "It is C. ANSWER: C"}).text == "It is C. ANSWER: C"
    assert said("", **{name: "Hm.</think>ANSWER: C"}).text == "ANSWER: C"
    assert said("ANSWER: B", **{name: "Maybe C. ANSWER: C"}).text == "ANSWER: B"
    assert said(None, "length", **{name: "Maybe C. ANSWER: C"}).text == ""  # cut in its reasoning


def test_parts_of_a_message_are_joined_without_reasoning() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "B"}]}, {"type": "text", "text": "ANSWER: C"}]
    assert said(parts).text == "ANSWER: C"


def test_half_a_character_is_replaced() -> None:
    assert said("C \ud83d, \udc00 \ud83d\ude00").text == "C \ufffd, \ufffd \U0001f600"


def test_an_answer_without_tokens_is_none() -> None:
    with pytest.raises(InvalidResponseError, match="no tokens"):
        parse(body({"content": ""}, tokens=0), TASK)
    assert parse(body({"content": ""}, tokens=1), TASK).text == ""


@pytest.mark.parametrize(
    ("response", "words"),
    [
        ({"error": {"message": "CUDA out of memory", "code": 500}}, "CUDA out of memory"),
        ({"error": "CUDA out of memory"}, "CUDA out of memory"),
        ({"object": "error", "message": "CUDA out of memory"}, "CUDA out of memory"),
        ({"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required"),
        ({"choices": [], "error": {"message": "engine\nis dead"}}, "engine is dead"),
    ],
)
def test_an_error_is_told_in_the_server_s_words(response: Any, words: str) -> None:
    with pytest.raises(InvalidResponseError, match=words):
        parse(json.dumps(response).encode(), TASK)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"choices":' + b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"error":' * 900 + b"1" + b"}" * 900,
        b'{"choices": [{"message": {"content": ' + b"9" * 10_000 + b"}}]}",
        b"\xff\xfe",
        b"",
    ],
)
def test_what_is_no_chat_completion_is_a_failed_request(raw: bytes) -> None:
    with pytest.raises(InvalidResponseError):
        parse(raw, TASK)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "content", "finish_reason", "usage", "error", "logprobs", "text", "type"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(["multiple-choice", "math"]),
)
def test_any_bytes_are_a_reply_or_a_failed_request(raw: bytes, task: str) -> None:
    try:
        reply = parse(raw, TASKS[task])
    except InvalidResponseError as error:
        str(error).encode()
    else:
        reply.text.encode()
