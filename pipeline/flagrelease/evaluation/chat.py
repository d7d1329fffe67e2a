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
from flagrelease.errors import error_words
from flagrelease.evaluation.grading.thinking import without_thinking
from flagrelease.evaluation.question import Question, Reply, Task

__all__ = ["ENDS", "InvalidResponseError", "concurrency", "parse", "request", "sampling_of"]

_TOP = 20
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_LETTER = re.compile(r"[A-Z]")


# What servers call the end of an answer (vLLM, SGLang, llama.cpp, TGI, LMDeploy), in OpenAI's words.
ENDS = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
}
_GAVE_UP = ("abort", "aborted", "cancelled", "error")


class InvalidResponseError(ValueError):
    """The endpoint answered 200 with something that is not a finished answer; the text says why."""


class AbortedError(InvalidResponseError):
    """The server gave the answer up, which may pass."""


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
    """The reply in a chat completion.

    Raises InvalidResponseError, also where the server gave up, filtered the answer or does not say why it ended: that
    is a failed request, not a wrong answer.
    """
    try:
        body = json.loads(raw, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidResponseError(f"not JSON: {error}") from None
    choice = _first(body.get("choices") if isinstance(body, dict) else None)
    if choice is None:
        words = error_words(body)
        raise InvalidResponseError(f"the server reports an error: {words}" if words else "no choices in the response")
    message = choice.get("message")
    if not isinstance(message, dict):
        raise InvalidResponseError("no message in the response")
    content = _text(message.get("content"))
    usage = body.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    tokens = count if type(count) is int and count >= 0 else None
    finish = _finish(choice)
    if tokens == 0 and not content.strip():
        raise InvalidResponseError("the answer has no tokens")
    unfinished = thinking and finish == "length"
    if not content.strip() and finish == "stop":
        # A server that is told to separate thinking, of a model that did not mark its end: the answer is in there.
        content = next((_text(message[name]) for name in _THOUGHTS if isinstance(message.get(name), str)), "")
    return Reply(
        text=without_thinking(content, unfinished=unfinished),
        finish_reason=finish,
        completion_tokens=tokens,
        letters=_letters(choice) if task.scoring == "letter" else None,
    )


def _text(content: Any) -> str:
    """The text of a message: a string, null, or parts of which those of the type `text` count; half a character (a lone
    surrogate) cannot be stored and is replaced. Raises InvalidResponseError."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    if not isinstance(content, str | None):
        raise InvalidResponseError("no message in the response")
    return (content or "").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _finish(choice: Mapping[str, Any]) -> str:
    """`stop` or `length`. Raises InvalidResponseError for an answer that ended otherwise."""
    reason = choice.get("finish_reason")
    if reason is None:
        raise InvalidResponseError("the server does not say why the answer ended (finish_reason is null)")
    finish = ENDS.get(reason.lower()) if isinstance(reason, str) else None
    if finish is None:
        error = AbortedError if isinstance(reason, str) and reason.lower() in _GAVE_UP else InvalidResponseError
        raise error(f"the answer ended with finish_reason {str(reason)[:40]!r}")
    return finish


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
