"""One question as a request to a chat endpoint, and the endpoint's response as a reply. Pure."""

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

__all__ = ["GarbageError", "concurrency", "parse", "request", "sampling_of", "without_thinking"]

_TOP = 20
_LETTER = re.compile(r"[A-Z]")


class GarbageError(ValueError):
    """The endpoint answered 200 with something that is no chat completion; the text says what."""


def sampling_of(task: Task, sampling: Sampling, engine: ServingEngine) -> dict[str, Any]:
    """The request's parameters besides model, messages and seed: what both sides must share."""
    if task.scoring == "letter":
        chosen: dict[str, Any] = {"temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": _TOP}
        thinking = False
    else:
        chosen = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_tokens}
        if sampling.top_k is not None:
            chosen["top_k"] = sampling.top_k
        thinking = sampling.thinking
    if engine.thinking_switch:
        chosen["chat_template_kwargs"] = {"enable_thinking": thinking}
    return chosen


def concurrency(parameters: Mapping[str, Any], engine: ServingEngine, at_once: int) -> int:
    """How many requests to have in flight: one, where what is meant to be deterministic otherwise is not."""
    return 1 if engine.batch_changes_answers and parameters["temperature"] == 0 else at_once


def request(model: str, question: Question, repeat: int, parameters: Mapping[str, Any]) -> bytes:
    """The JSON body. Repeats of a sampled question get seeds of their own: a shared one makes equal answers."""
    body: dict[str, Any] = {"model": model, "messages": question.messages, "stream": False, **parameters}
    if parameters["temperature"] != 0:
        digest = hashlib.sha256(f"{question.subset}\0{question.id}\0{repeat}".encode()).digest()
        body["seed"] = int.from_bytes(digest[:4], "big") >> 1
    return json.dumps(body, ensure_ascii=False).encode()


def parse(raw: bytes, task: Task, *, thinking: bool = False) -> Reply:
    """The reply in a chat completion's bytes. Raises GarbageError."""
    try:
        body = json.loads(raw, parse_constant=_constant)
    except ValueError as error:
        raise GarbageError(f"not JSON: {error}") from None
    choice = _first(body.get("choices") if isinstance(body, dict) else None)
    if choice is None:
        raise GarbageError("no choices in the answer")
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(message, dict) or not isinstance(content, str | None):
        raise GarbageError("no message in the answer")
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
    """`text` after its thinking. Templates may open the tag in the prompt, so only the closing one counts;
    thinking that never ended (`unfinished`, or opened in the text) leaves no answer."""
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
        raise GarbageError("no top_logprobs in the answer: the endpoint does not give log-probabilities")
    found: dict[str, float] = {}
    for entry in top:
        text, value = (entry.get("token"), entry.get("logprob")) if isinstance(entry, dict) else (None, None)
        if not isinstance(text, str) or not isinstance(value, int | float) or not math.isfinite(value):
            raise GarbageError(f"a log-probability is {value!r}")
        letter = text.strip()
        # " A" and "A" are two tokens of one answer; the likelier one speaks for it.
        if _LETTER.fullmatch(letter):
            found[letter] = max(value, found.get(letter, -math.inf))
    return found
