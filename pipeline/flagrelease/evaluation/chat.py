"""Convert questions to chat requests and chat responses to replies."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from flagrelease.config.engines import ServingEngine
from flagrelease.config.matrix import Sampling
from flagrelease.evaluation.question import Question, Reply, Task

__all__ = ["InvalidResponseError", "concurrency", "parse", "request", "sampling_of", "without_thinking"]

_TOP = 20
_LETTER = re.compile(r"[A-Z]")


class InvalidResponseError(ValueError):
    """The endpoint answered 200 with something that is not a chat completion; the text says why."""


def sampling_of(task: Task, sampling: Sampling, engine: ServingEngine) -> dict[str, Any]:
    """The request's parameters other than model, messages and seed; both sides must use the same ones."""
    if task.scoring == "letter":
        chosen: dict[str, Any] = {"temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": _TOP}
        thinking = False
    else:
        chosen = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": _tokens(task, sampling)}
        if sampling.top_k is not None:
            chosen["top_k"] = sampling.top_k
        thinking = sampling.thinking
    if engine.thinking_switch:
        chosen["chat_template_kwargs"] = {"enable_thinking": thinking}
    return {**chosen, **engine.uncached}


def _tokens(task: Task, sampling: Sampling) -> int:
    if task.longest is None or sampling.thinking:  # thinking has no known length
        return sampling.max_tokens
    return min(task.longest, sampling.max_tokens)


def concurrency(parameters: Mapping[str, Any], engine: ServingEngine, at_once: int) -> int:
    """How many requests to keep in flight: one where batching would make greedy answers non-deterministic."""
    return 1 if engine.batch_changes_answers and parameters["temperature"] == 0 else at_once


def request(model: str, question: Question, repeat: int, parameters: Mapping[str, Any]) -> bytes:
    """The JSON body. Each repeat of a sampled question gets its own seed, as a shared seed gives equal answers."""
    body: dict[str, Any] = {"model": model, "messages": question.messages, "stream": False, **parameters}
    if parameters["temperature"] != 0:
        digest = hashlib.sha256(f"{question.subset}\0{question.id}\0{repeat}".encode()).digest()
        body["seed"] = int.from_bytes(digest[:4], "big") >> 1
    return json.dumps(body, ensure_ascii=False).encode()


def parse(raw: bytes, task: Task, *, thinking: bool = False) -> Reply:
    """The reply in a chat completion. Raises InvalidResponseError."""
    try:
        body = json.loads(raw, parse_constant=_constant)
    except ValueError as error:
        raise InvalidResponseError(f"not JSON: {error}") from None
    choice = _first(body.get("choices") if isinstance(body, dict) else None)
    if choice is None:
        raise InvalidResponseError("no choices in the response")
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(message, dict) or not isinstance(content, str | None):
        raise InvalidResponseError("no message in the response")
    usage = body.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    reason = choice.get("finish_reason")
    finish = reason if isinstance(reason, str) else None
    return Reply(
        text=without_thinking(content or "", unfinished=thinking and finish == "length"),
        finish_reason=finish,
        completion_tokens=tokens if type(tokens) is int and tokens >= 0 else None,
        letters=_letters(choice) if task.scoring == "letter" else None,
    )


def without_thinking(text: str, *, unfinished: bool = False) -> str:
    """`text` without its thinking.

    Templates may open the tag in the prompt, so only the closing tag counts; thinking that never ended (`unfinished`,
    or opened in the text) leaves an empty text.
    """
    head, tag, tail = text.rpartition("</think>")
    if tag:
        return tail.strip()
    if unfinished or text.lstrip().startswith("<think>"):
        return ""
    return (head or tail).strip()


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _first(values: Any) -> dict[str, Any] | None:
    return values[0] if isinstance(values, list) and values and isinstance(values[0], dict) else None


def _letters(choice: Mapping[str, Any]) -> dict[str, float]:
    logprobs = choice.get("logprobs")
    token = _first(logprobs.get("content") if isinstance(logprobs, dict) else None)
    top = token.get("top_logprobs") if token is not None else None
    if not isinstance(top, list) or not top:
        raise InvalidResponseError("no top_logprobs in the response: the endpoint does not provide log-probabilities")
    letters: dict[str, float] = {}
    for entry in top:
        text, value = (entry.get("token"), entry.get("logprob")) if isinstance(entry, dict) else (None, None)
        if not isinstance(text, str) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InvalidResponseError(f"invalid log-probability {value!r}")
        letter = text.strip()
        # " A" and "A" are two tokens of one answer: take the likelier.
        if _LETTER.fullmatch(letter):
            letters[letter] = max(value, letters.get(letter, -math.inf))
    return letters
